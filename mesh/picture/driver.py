"""`Picture`: what this node thinks of its peers, kept up from what it sees and from what others publish.

picture = Picture(own, clock, disk, randomness, board)
async with trio.open_nursery() as nursery:
    await nursery.start(picture.run)
    picture.observe(peer, Outcome.SERVED, "session 1a2b3c4d, layers 4-7")
    picture.score(peer)

Observing and scoring never wait and never raise: they are called where tokens flow. A disk that is full costs the record
of the time since it was full, after a crash, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from mesh.nursery import peer_nursery
from mesh.picture.board import Board
from mesh.picture.evidence import LEDGER_FILE, Happening, Ledger
from mesh.picture.health import is_due, is_known, pause_s
from mesh.picture.hearsay import Hearsay, SponsorOf, Weighed
from mesh.picture.observations import Announcements, decode_observations, observations_of
from mesh.picture.reputation import is_distrusted, lower_bound, overall, standing
from protocols import limits
from protocols.errors import LocalFault, Overloaded, RemoteFault
from protocols.gossip import Heard, Topic
from protocols.health import HEALTH_CODEC, HealthDigest
from protocols.ids import PeerId
from protocols.observations import OBSERVATIONS_CODEC, Evidence, Facet, Outcome, Tally
from protocols.seams import Clock, Disk, Randomness

log = structlog.get_logger()

SCORE_S: Final = 1.0  # a score is worked out again after this; one's own observation changes it at once
TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FacetView:
    """One facet of a peer: own evidence, what hearsay adds to it, and the bound that follows."""

    facet: Facet
    own: Evidence
    combined: Evidence
    lower_bound: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a peer has its score. `happenings` has the newest first."""

    peer: PeerId
    score: float
    overall: float
    tally: Tally
    facets: tuple[FacetView, ...]
    happenings: tuple[Happening, ...]
    reports: tuple[Weighed, ...]


class Picture:
    """`digest` gives this node's own health, where there is something to say about it; `members` how many there are."""

    def __init__(
        self,
        own: PeerId,
        clock: Clock,
        disk: Disk,
        randomness: Randomness,
        board: Board,
        *,
        digest: Callable[[], HealthDigest] | None = None,
        sponsor_of: SponsorOf = lambda _: None,
        is_member: Callable[[PeerId], bool] = lambda _: True,
        members: Callable[[], int] = lambda: 1,
    ) -> None:
        self._own = own
        self._clock = clock
        self._disk = disk
        self._randomness = randomness
        self._board = board
        self._digest = digest
        self._members = members
        self._ledger = self._read()
        self._hearsay = Hearsay(own, sponsor_of, is_member)
        self._announcements = Announcements(self._ledger.newest_subjects())
        self._scores: dict[PeerId, tuple[float, float]] = {}
        self._health: dict[PeerId, tuple[float, HealthDigest]] = {}
        self._has_changed = False

    # What the rest of the node uses -------------------------------------------------------------------------------

    def observe(self, peer: PeerId, outcome: Outcome, detail: str = "") -> None:
        """Take note of what a peer did. Of itself a node thinks nothing."""
        if peer == self._own:
            return
        self._ledger.observe(peer, outcome, detail, self._clock.monotonic(), self._clock.wall())
        self._announcements.changed(peer, outcome)
        self._scores.pop(peer, None)
        self._has_changed = True

    def score(self, peer: PeerId) -> float:
        """In 0..1, for choosing: what bad evidence has left of a peer's score, 1 where there is none.

        0: it was seen to compute wrongly, and is taken only where nobody else is left.
        """
        if peer == self._own:
            return 1.0
        now = self._clock.monotonic()
        until_s, score = self._scores.get(peer, (now, 0.0))
        if now >= until_s:
            score = self._score(peer, now)
            if len(self._scores) >= 2 * limits.MEMBERS_MAX:
                self._scores.clear()
            self._scores[peer] = (now + SCORE_S, score)
        return score

    def tally(self, peer: PeerId) -> Tally:
        """How often this node saw which outcome, decayed."""
        return self._ledger.tally(peer, self._clock.monotonic())

    def health(self, peer: PeerId) -> HealthDigest | None:
        """What a peer last said of itself; None if it has said nothing for `HEALTH_MISSED` pauses."""
        heard_s, digest = self._health.get(peer, (0.0, None))
        return digest if is_known(heard_s, self._clock.monotonic(), self._members()) else None

    def explain(self, peer: PeerId) -> Explanation:
        now = self._clock.monotonic()
        own, combined = self._ledger.facets(peer, now), self._hearsay.combined(peer, self._ledger, now)
        facets = tuple(
            FacetView(facet, own[facet], combined[facet], lower_bound(combined[facet])) for facet in Facet
        )
        return Explanation(
            peer,
            self.score(peer),
            overall(combined),
            self._ledger.tally(peer, now),
            facets,
            self._ledger.happenings(peer),
            self._hearsay.weighed(peer, self._ledger, now),
        )

    def check(self, heard: Heard) -> None:
        """The validator of the topics HEALTH and OBSERVATIONS; raises `RemoteFault`."""
        if heard.topic is Topic.OBSERVATIONS:
            decode_observations(heard)
        elif heard.body:
            HEALTH_CODEC.decode(heard.body)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish, listen and save until cancelled; saves a last time then."""
        try:
            async with peer_nursery() as nursery:
                await nursery.start(self._listen, Topic.OBSERVATIONS)
                await nursery.start(self._listen, Topic.HEALTH)
                nursery.start_soon(self._publish_observations)
                nursery.start_soon(self._publish_health)
                nursery.start_soon(self._save_now_and_then)
                task_status.started()
        finally:
            self._save()

    # Scores

    def _score(self, peer: PeerId, now: float) -> float:
        if is_distrusted(self._ledger.tally(peer, now)):
            return 0.0
        return standing(self._hearsay.combined(peer, self._ledger, now))

    # What others publish

    async def _listen(
        self, topic: Topic, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        while True:
            with self._board.subscribe(topic) as coming:
                for heard in self._board.items(topic):
                    self._hear(heard)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                try:
                    async for heard in coming:
                        self._hear(heard)
                except Overloaded:
                    continue  # what was missed stands on the board
            return

    def _hear(self, heard: Heard) -> None:
        # A board checks what it shows; whatever is wrong here all the same is passed over.
        try:
            if heard.topic is Topic.OBSERVATIONS:
                self._hear_observations(heard)
            elif heard.body:
                self._hear_health(heard.author, HEALTH_CODEC.decode(heard.body))
        except RemoteFault as error:
            log.debug("passed over", author=heard.author, topic=heard.topic.name, error=str(error))

    def _hear_observations(self, heard: Heard) -> None:
        told = decode_observations(heard)
        if told is None:
            self._hearsay.forget(heard.author, PeerId(heard.key))
        else:
            self._hearsay.hear(heard.author, told, self._ledger, self._clock.monotonic())

    def _hear_health(self, peer: PeerId, digest: HealthDigest) -> None:
        now = self._clock.monotonic()
        if peer not in self._health and len(self._health) >= limits.MEMBERS_MAX:
            members = self._members()
            self._health = {
                known: kept for known, kept in self._health.items() if is_known(kept[0], now, members)
            }
        if peer in self._health or len(self._health) < limits.MEMBERS_MAX:
            self._health[peer] = (now, digest)

    # What this node publishes

    async def _publish_observations(self) -> None:
        while True:
            now = self._clock.monotonic()
            for subject in self._announcements.due(self._ledger, now):
                told = observations_of(subject, self._ledger, now, self._clock.wall())
                body = OBSERVATIONS_CODEC.encode(told)
                self._board.publish(Topic.OBSERVATIONS, subject, body, limits.OBSERVATIONS_TTL_S)
            await trio.sleep(TICK_S)

    async def _publish_health(self) -> None:
        told: HealthDigest | None = None
        told_s = 0.0
        while self._digest is not None:
            digest, now, members = self._digest(), self._clock.monotonic(), self._members()
            if is_due(told, digest, now - told_s, members):
                ttl_s = limits.HEALTH_KEPT * pause_s(members)
                self._board.publish(Topic.HEALTH, "", HEALTH_CODEC.encode(digest), ttl_s)
                told, told_s = digest, now
            # Up to a tenth early or late, so that nodes started together do not speak together for ever.
            jitter = (self._randomness.token_bytes(1)[0] / 255 - 0.5) / 5
            await trio.sleep(limits.HEALTH_S * (1 + jitter))

    # The disk

    async def _save_now_and_then(self) -> None:
        while True:
            await trio.sleep(limits.PICTURE_SAVED_S)
            self._save()

    def _save(self) -> None:
        if not self._has_changed:
            return
        try:
            self._disk.write(LEDGER_FILE, self._ledger.encode(self._clock.monotonic(), self._clock.wall()))
        except LocalFault as error:
            log.warning("what peers did is not saved", error=str(error))
        else:
            self._has_changed = False

    def _read(self) -> Ledger:
        try:
            return Ledger.decode(self._disk.read(LEDGER_FILE), self._clock.monotonic(), self._clock.wall())
        except LocalFault as error:
            # Opinions are made again; a node that does not start over them is not.
            log.warning("what peers did is forgotten", error=str(error))
            return Ledger()
