"""The board over gossip: one word for every range that a node holds, and one for every model that it can name.

A claim stands for one run of its holder, whose boot it carries: what a node said before it was restarted holds nothing any more,
and counts for nothing as soon as the new run is heard of, while a member that was only out of touch counts again at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import msgspec
import structlog
import trio

from inference.placement.board import Down, Hear
from mesh.liveness.detector import MemberAlive, MemberDead, MemberLeft, MemberSuspect, State
from mesh.members.driver import Members
from mesh.members.membership import MemberDown, MemberUp
from mesh.nursery import peer_nursery
from protocols import limits
from protocols.errors import LocalFault, Malformed, Overloaded, RemoteFault
from protocols.gossip import Heard, Topic
from protocols.ids import PeerId, shortened
from protocols.messages import Codec
from protocols.placement import Claim, Claims, ModelNote

log = structlog.get_logger()

REPEAT_S: Final = limits.CLAIM_TTL_S / 2


class ClaimWord(msgspec.Struct, frozen=True, array_like=True):
    """Body of an item on topic CLAIMS, whose key is `key_of(claim)`. `boot` is that of the run which holds the range."""

    boot: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    claim: Claim


WordT = TypeVar("WordT", ClaimWord, ModelNote)

CLAIM_WORD_CODEC: Final[Codec[ClaimWord]] = Codec(ClaimWord)
NOTE_CODEC: Final[Codec[ModelNote]] = Codec(ModelNote)


def key_of(claim: Claim) -> str:
    return f"{claim.model}:{claim.range.start}-{claim.range.end}"


def check_claim(heard: Heard) -> None:
    """The validator of topic CLAIMS. Raises `Malformed`."""
    claim = CLAIM_WORD_CODEC.decode(heard.body).claim
    if claim.holder != heard.author or heard.key != key_of(claim):
        raise Malformed("a claim in another's name, or under the key of another", heard.author)


def check_note(heard: Heard) -> None:
    """The validator of topic MODELS. Raises `Malformed`."""
    if heard.key != NOTE_CODEC.decode(heard.body).digest:
        raise Malformed("a model under the key of another", heard.author)


class GossipBoard:
    """Implements `inference.placement.board.ClaimBoard`."""

    def __init__(self, members: Members, own: PeerId) -> None:
        self._members = members
        self._gossip = members.gossip
        self._own = own
        self._said: dict[tuple[Topic, str], bytes] = {}
        self._words: dict[PeerId, dict[str, ClaimWord]] = {}
        self._notes: dict[PeerId, dict[str, ModelNote]] = {}
        self._lost: set[PeerId] = set()  # this node has lost touch with them, whatever others think
        self._hear: Hear = lambda _holder, _told: None
        self._down: Down = lambda _peer: None

    def listen(self, hear: Hear, down: Down) -> None:
        self._hear, self._down = hear, down

    # Speaking ------------------------------------------------------------------------------------------------------

    def publish(self, own: Claims) -> None:
        boot = self._members.watch.boot_of(self._own)
        words = {
            (Topic.CLAIMS, key_of(claim)): CLAIM_WORD_CODEC.encode(ClaimWord(boot, claim))
            for claim in own.claims
        }
        words |= {(Topic.MODELS, str(note.digest)): NOTE_CODEC.encode(note) for note in own.models}
        before, self._said = self._said, words
        for place in sorted(before.keys() - words.keys()):
            self._say(place, b"")
        for place, body in words.items():
            if before.get(place) != body:
                self._say(place, body)

    def _say(self, place: tuple[Topic, str], body: bytes) -> None:
        topic, key = place
        try:
            self._gossip.publish(topic, key, body, limits.CLAIM_TTL_S)
        except LocalFault as error:
            log.warning("a claim can't be told", key=key, reason=str(error))

    async def _repeat(self) -> None:
        while True:
            await trio.sleep(REPEAT_S)
            for place, body in self._said.items():
                self._say(place, body)

    # Hearing -------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with peer_nursery() as nursery:
            for read in (self._read_claims, self._read_notes, self._follow_members, self._follow_detector):
                nursery.start_soon(_again_if_behind, read)
            nursery.start_soon(self._repeat)
            task_status.started()

    async def _read_claims(self) -> None:
        with self._gossip.subscribe(Topic.CLAIMS) as news:
            for heard in self._gossip.items(Topic.CLAIMS):
                self._take_claim(heard)
            async for heard in news:
                self._take_claim(heard)

    async def _read_notes(self) -> None:
        with self._gossip.subscribe(Topic.MODELS) as news:
            for heard in self._gossip.items(Topic.MODELS):
                self._take_note(heard)
            async for heard in news:
                self._take_note(heard)

    def _take_claim(self, heard: Heard) -> None:
        if heard.author == self._own:
            self._disown(heard)
            return
        words = self._of(heard.author, self._words)
        if heard.body:
            words[heard.key] = CLAIM_WORD_CODEC.decode(heard.body)
        else:
            words.pop(heard.key, None)
        self._tell(heard.author)

    def _take_note(self, heard: Heard) -> None:
        if heard.author == self._own:
            self._disown(heard)
            return
        notes = self._of(heard.author, self._notes)
        if heard.body:
            notes[heard.key] = NOTE_CODEC.decode(heard.body)
        else:
            notes.pop(heard.key, None)
        self._tell(heard.author)

    def _of(self, author: PeerId, said: dict[PeerId, dict[str, WordT]]) -> dict[str, WordT]:
        """What an author has said; who is no member any more makes room, or they would pile up for ever."""
        if author not in said and len(said) >= limits.MEMBERS_MAX:
            for peer in [peer for peer in said if not self._members.is_member(peer)]:
                del said[peer]
        return said.setdefault(author, {})

    def _disown(self, heard: Heard) -> None:
        """A word of an earlier run of this node that comes back, and that this run does not say."""
        if heard.body and (heard.topic, heard.key) not in self._said:
            self._say((heard.topic, heard.key), b"")

    def _tell(self, holder: PeerId) -> None:
        """What a holder claims now, if it lives."""
        if not self._is_living(holder):
            return
        boot = self._members.watch.boot_of(holder)
        words = self._words.get(holder, {}).values()
        claims = tuple(word.claim for word in words if word.boot == boot)[: limits.STAGES_MAX]
        notes = tuple(self._notes.get(holder, {}).values())[: limits.MODELS_MAX]
        try:
            self._hear(holder, Claims(claims, notes))
        except RemoteFault as error:
            log.warning("claims are not believed", holder=shortened(holder), reason=str(error))

    # Who lives -----------------------------------------------------------------------------------------------------

    def _is_living(self, peer: PeerId) -> bool:
        if self._members.is_up(peer):
            return True
        return peer not in self._lost and self._members.watch.state(peer) <= State.SUSPECT

    async def _follow_members(self) -> None:
        with self._members.subscribe() as events:
            for peer in sorted(self._words.keys() | self._notes.keys()):
                self._tell(peer)
            async for event in events:
                match event:
                    case MemberUp(peer):
                        self._lost.discard(peer)
                        self._tell(peer)
                    case MemberDown(peer):
                        self._lost.add(peer)
                        self._down(peer)

    async def _follow_detector(self) -> None:
        """A new run of a holder is heard of, or one that this node is not connected to."""
        with self._members.watch.subscribe() as changes:
            async for change in changes:
                match change:
                    case MemberAlive(peer):
                        self._lost.discard(peer)
                        self._tell(peer)
                    case MemberDead(peer) | MemberLeft(peer):
                        self._down(peer)
                    case MemberSuspect():
                        pass  # nothing is decided


async def _again_if_behind(read: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await read()
        except Overloaded:
            log.warning("placement fell behind what members say and reads all of it again")
        else:
            return
