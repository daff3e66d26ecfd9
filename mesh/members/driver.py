"""`Members`: who is in this node's network, who of them lives, and what they say; over a network, a clock and a disk.

    decide_network(disk, identity, ...)       before the network is made: its handshake binds the id
    members = Members(network, clock, disk, randomness, identity, Profile("name"))
    async with network.run(), trio.open_nursery() as nursery:
        await nursery.start(members.run)
        await members.join(invite)            if there is one

It is composed of the door (`credentials`), the address book, the machine that dials (`membership`), gossip with the records of all
members (`news`), and the failure detector (`watch`). Other parts of a node use `members.gossip` for what they have to say.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, assert_never

import structlog
import trio

from mesh.admission.belonging import read_belonging
from mesh.admission.credentials import Credentials
from mesh.admission.identity import Identity, rotate_static
from mesh.admission.inviting import Inviting
from mesh.admission.joining import request_join
from mesh.admission.signatures import IsStatement, is_statement_of
from mesh.directory.book_file import BookFile
from mesh.directory.bootstrap import Hint, Names
from mesh.directory.discovery import Discovery
from mesh.directory.own_record import OwnRecordKeeper
from mesh.directory.records import Particulars, contact_of
from mesh.feed import Feed, Subscription
from mesh.gossip.driver import Gossip
from mesh.gossip.intake import Validator
from mesh.liveness.detector import MemberLeft, State
from mesh.liveness.gossip_board import GossipBoard, check_liveness
from mesh.liveness.watch import Watch
from mesh.members import membership as m
from mesh.members.answering import Answering
from mesh.members.candidates import Candidates
from mesh.members.errands import Errands
from mesh.members.lookup import LookUp
from mesh.members.news import News
from mesh.members.upkeep import Upkeep
from protocols import limits
from protocols.errors import UserError
from protocols.gossip import Topic
from protocols.ids import NetworkId, PeerId, shortened
from protocols.membership import Contact, Invite, MembersMessage, Revoked, parse_invite
from protocols.records import Capabilities, NodeRecord, SignedRecord, decode_record
from protocols.seams import Clock, Disk, Network, PeerEvent, PeerUp, Randomness
from protocols.streams import Plane

log = structlog.get_logger()

NO_LONGER: Final = (
    "by this clock and what this node knows, its certificate is no longer good: "
    "set the clock if it is wrong, else join again with a new invite ('weft up --join INVITE')"
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a node says of itself in its record, and where it looks for others when it is alone."""

    name: str = ""
    labels: tuple[str, ...] = ()
    capabilities: Callable[[], Capabilities] = Capabilities
    bootstrap: tuple[str, ...] = ()
    names: Names | None = None


class Members:
    """The members of this node's network. `validators` are for the topics of gossip that others than members use, and
    `is_statement` judges what others signed."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        disk: Disk,
        randomness: Randomness,
        identity: Identity,
        profile: Profile = Profile(),
        validators: Mapping[Topic, Validator] | None = None,
        is_statement: IsStatement = is_statement_of,
    ) -> None:
        belonging = read_belonging(disk)
        assert belonging is not None, "the network is not decided"
        self.network_id: Final[NetworkId] = belonging.network
        self._network = network
        self._clock = clock
        self._disk = disk
        self._randomness = randomness
        self._identity = identity
        self._profile = profile
        self._papers = Credentials(belonging, identity, clock, disk, randomness)
        self._file = BookFile(disk, clock)
        self._machine = m.Membership(network.peer, self._file.book)
        self._record = OwnRecordKeeper(clock, disk, identity, self.network_id, self._particulars)
        self._news = News(self.network_id, clock, self._papers, self._record, is_statement)
        rules = {**(validators or {}), **self._news.validators, Topic.LIVENESS: check_liveness}
        self.gossip: Final = Gossip(
            network, self.network_id, clock, randomness, identity, self.is_member, rules, is_statement
        )
        self._news.bind(self.gossip)
        board = GossipBoard(self.gossip, network.peer)
        self.watch: Final = Watch(network, self.network_id, disk, randomness, board)
        self._errands = Errands(network, self.network_id)
        self._lookup = LookUp(self._errands, self.members, self._ups)
        self._inviting = Inviting(self._papers, clock, disk, randomness)
        self._discovery = Discovery(
            network, profile.names, profile.bootstrap, self._file.book.get, self._is_lonely, self._try
        )
        self._events: Feed[m.MemberEvent] = Feed()
        self._todo: deque[Callable[[], Awaitable[None]]] = deque()
        self._wake = trio.Event()
        self._candidates = Candidates(self.watch, self.gossip.set_candidates)
        self._is_joining = self._is_leaving = False

    # What the rest of the node uses -------------------------------------------------------------------------------

    def members(self) -> tuple[Contact, ...]:
        """All but this node."""
        return self._machine.members

    def count(self) -> int:
        """This node included."""
        return self._machine.count

    def contact(self) -> Contact:
        """This node's own. Needs `run` to be ready."""
        assert self._record.current is not None, "run is not ready"
        return contact_of(decode_record(self._record.current.record))

    def record(self, peer: PeerId) -> NodeRecord | None:
        """What a member says of itself, as far as it has been heard."""
        signed = self._file.book.record(peer)
        return None if signed is None else decode_record(signed.record)

    def is_member(self, peer: PeerId) -> bool:
        """Whether a chain is known that makes it one now; this node itself is."""
        return peer == self._network.peer or self._papers.door.chain_of(peer) is not None

    def is_up(self, peer: PeerId) -> bool:
        """Whether a member can be talked to, as far as is known."""
        return self._machine.is_up(peer)

    def state(self, peer: PeerId) -> State:
        """Whether a member lives, as the failure detector sees it."""
        return self.watch.state(peer)

    def sponsor_of(self, peer: PeerId) -> PeerId | None:
        """Who let a member in; None for the founder, and if it is not known."""
        return self._papers.door.sponsor_of(peer)

    def troubles(self) -> dict[str, int]:
        """What went wrong besides what gossip counts."""
        no_room = self._discovery.counts["no room"]
        return {"discovery no room": no_room, "book not written": self._file.failures}

    def subscribe(self) -> Subscription[m.MemberEvent]:
        """`MemberUp` and `MemberDown` from this call on."""
        return self._events.subscribe()

    def hear(self, hint: Hint) -> None:
        """Somebody says where a peer may be."""
        self._discovery.hear(hint)

    def invite(self, uses: int, ttl_s: float) -> str:
        """A new invite as one string. Raises `UserError`: senseless figures, too many outstanding, or no right to."""
        secret, expires_s = self._inviting.make(uses, ttl_s)
        self._refresh_welcome()
        self._wake.set()
        return Invite(self.network_id, self.contact(), secret, uses, expires_s).to_text()

    async def join(self, invite_text: str) -> None:
        """Become a member of the invite's network; a formality if this node is one. Raises `UserError`."""
        invite = parse_invite(invite_text)
        if invite.network != self.network_id:
            raise UserError(
                f"The invite is to network {shortened(invite.network)} and this node runs in "
                f"{shortened(self.network_id)}: start a node with a home of its own (WEFT_HOME)."
            )
        if invite.inviter.peer == self._network.peer:
            raise UserError("This node made that invite itself: use it on another machine.")
        if self._papers.is_member:
            self._handle(m.Met(invite.inviter))
            return
        self._handle(m.Joining(invite.inviter))
        self._papers.ask_as_stranger()
        self._is_joining = True
        try:
            accepted = await request_join(self._network, invite, self.contact(), self._clock.wall())
            self._papers.take_chain(accepted.chain)
        finally:
            self._is_joining = False
            self._papers.show_again()
        self._network.guard(self._papers.door)
        self._handle(m.Joined(accepted.members))
        self._record.check_soon()

    def revoke(self, peer: PeerId) -> tuple[PeerId, ...]:
        """End a membership; gives the members whom it had sponsored, who have lost theirs as well. Raises `UserError`."""
        below = self._papers.revoke(peer)
        self._apply_revocations()
        self._news.publish_revocations()
        return below

    async def leave(self) -> None:
        """Tell the others that this node goes, so that they need not find out; takes `LEAVE_S` at most."""
        self._is_leaving = True
        await self.watch.leave()
        self.gossip.set_candidates(())  # or its links would connect this node again

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the members until cancelled; the network must be running."""
        if self._papers.chain and not self._papers.is_member:
            log.warning(NO_LONGER)
        self._record.refresh()
        events = self._network.events()
        self._answering().serve(self._network, self.network_id)
        self._network.guard(self._papers.door)
        self._refresh_welcome()
        async with trio.open_nursery() as nursery:
            self._perform(self._machine.start(trio.current_time()))
            await nursery.start(self._file.run)
            await nursery.start(self.gossip.run)
            self.watch.set_candidates(self._machine.known)
            await nursery.start(self.watch.run)
            nursery.start_soon(self._follow, events)
            nursery.start_soon(self._follow_detector)
            nursery.start_soon(self._upkeep().run)
            await nursery.start(self._discovery.run)
            await nursery.start(self._news.run, self._take_record, self._apply_revocations)
            task_status.started()
            await self._tend(nursery)

    # Parts ---------------------------------------------------------------------------------------------------------

    def _answering(self) -> Answering:
        return Answering(
            self._papers, self._inviting, self._file.book, self.contact, self._let_in, self._take_revocations
        )

    def _upkeep(self) -> Upkeep:
        return Upkeep(
            self._network, self._papers, self._errands, self._ups, self._replace_static_if_old, self._renewed
        )

    def _particulars(self) -> Particulars:
        profile = self._profile
        return Particulars(
            self._network.addresses(Plane.CONTROL),
            self._network.addresses(Plane.DATA),
            tuple(key.public for key in self._identity.statics),
            profile.name,
            profile.labels,
            profile.capabilities(),
            self._papers.door.show(),
        )

    # The machine ---------------------------------------------------------------------------------------------------

    async def _follow(self, events: AsyncIterator[PeerEvent]) -> None:
        for connection in self._network.connections():
            if connection.is_member:
                self._handle(PeerUp(connection.peer, connection.plane))
        async for event in events:
            self._handle(event)

    async def _follow_detector(self) -> None:
        with self.watch.subscribe() as changes:
            async for change in changes:
                if isinstance(change, MemberLeft):
                    self._handle(m.Left(change.peer))
                self._candidates.changed()
                self._wake.set()

    async def _tend(self, nursery: trio.Nursery) -> None:
        welcome_until = math.inf
        while True:
            while self._todo:
                nursery.start_soon(self._todo.popleft())
            self._wake = trio.Event()
            with trio.move_on_at(min(self._machine.deadline, welcome_until)):
                await self._wake.wait()
            welcome_until = self._refresh_welcome()
            self._handle(m.Alarm())
            if self._candidates.is_due and self._papers.is_member and not self._is_leaving:
                self._candidates.tell(self._machine.connected, self._machine.known)

    def _refresh_welcome(self) -> float:
        """Strangers are welcome while an invite is valid; gives when that ends on trio's clock, if it will."""
        left_s = self._inviting.open_s
        door = self._papers.door
        if door.welcomes_strangers != (left_s > 0):
            door.welcomes_strangers = left_s > 0
            self._network.guard(door)
        return trio.current_time() + left_s if left_s > 0 else math.inf

    def _handle(self, event: m.Input) -> None:
        self._perform(self._machine.handle(event, trio.current_time()))
        self._wake.set()  # there may be errands, or another deadline
        if not isinstance(event, m.Alarm | m.DialEnded):
            self._candidates.changed()

    def _perform(self, outputs: list[m.Output]) -> None:
        for output in outputs:
            match output:
                case m.Persist(at_once):
                    self._file.write() if at_once else self._file.write_soon()
                case m.Learn(contact):
                    self._network.learn(contact)
                case m.Dial(peer, plane):
                    self._do(partial(self._dial, peer, plane))
                case m.Disconnect(peer):
                    self._do(partial(self._errands.disconnect, peer))
                case m.MemberUp(peer):
                    self._file.book.seen(peer, self._clock.wall())
                    self._file.write_soon()
                    self._do(partial(self._tell, peer, self._known_revocations()))
                    self._events.tell(output)
                case m.MemberDown():
                    self._events.tell(output)
                case _:
                    assert_never(output)

    def _do(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Have `_tend` start it, since it takes time and the machine's outputs come anywhere."""
        self._todo.append(errand)

    async def _dial(self, peer: PeerId, plane: Plane) -> None:
        if self._is_leaving:
            return
        if await self._errands.dial(peer, plane, was_seen=self._file.book.seen_s(peer) > 0):
            self._note_address(peer, plane)
        elif (newer := await self._lookup.newer_contact(peer)) is not None:
            self._handle(m.Met(newer))
        self._handle(m.DialEnded(peer, plane))

    def _note_address(self, peer: PeerId, plane: Plane) -> None:
        for info in self._network.connections():
            if (info.peer, info.plane) == (peer, plane) and info.address:
                self._file.book.seen(peer, self._clock.wall(), plane, info.address)
                self._file.write_soon()

    def _try(self, peer: PeerId) -> None:
        self._do(partial(self._dial, peer, Plane.CONTROL))
        self._wake.set()

    def _is_lonely(self) -> bool:
        return self._is_joining or not self._ups()

    async def _tell(self, peer: PeerId, messages: tuple[MembersMessage, ...]) -> None:
        if messages and self.is_up(peer):
            await self._errands.tell(peer, *messages)

    def _ups(self) -> list[PeerId]:
        return [contact.peer for contact in self.members() if self.is_up(contact.peer)]

    # What others say -----------------------------------------------------------------------------------------------

    def _take_record(self, record: NodeRecord, signed: SignedRecord) -> None:
        self._handle(m.Recorded(record, signed))

    def _let_in(self, newcomer: Contact) -> None:
        self._network.guard(self._papers.door)
        self._handle(m.Met(newcomer))

    def _known_revocations(self) -> tuple[MembersMessage, ...]:
        return tuple(map(Revoked, self._papers.all_revocations()))

    def _take_revocations(self, body: bytes) -> None:
        if self._papers.take_revocations(body):
            self._apply_revocations()

    def _apply_revocations(self) -> None:
        door = self._papers.door
        self._handle(m.Banned(door.banned(), door.orphans()))
        self._network.guard(door)

    # Upkeep --------------------------------------------------------------------------------------------------------

    def _replace_static_if_old(self) -> None:
        """A new Noise key when the one in use has had its time; the others are told of it. Raises `LocalFault`."""
        if self._clock.wall() - self._identity.statics[0].made_s < limits.STATIC_S:
            return
        rotate_static(self._disk, self._randomness, self._identity, self._clock.wall())
        self._record.check_soon()

    def _renewed(self) -> None:
        """This node has a new certificate, and says so with a new record and its list of revocations signed anew."""
        self._record.check_soon()
