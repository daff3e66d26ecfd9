"""A node's picture of its peers on virtual time: heard, scored, published, and kept over a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from mesh.picture.driver import Picture
from mesh.picture.evidence import LEDGER_FILE
from mesh.picture.health import Vitals, digest_of
from protocols import limits
from protocols.errors import Dishonest, Malformed
from protocols.gossip import Heard, Topic
from protocols.health import HEALTH_CODEC, HealthDigest
from protocols.ids import PeerId
from protocols.observations import OBSERVATIONS_CODEC, Evidence, Outcome
from simulations.machine.clock import SeededRandomness, VirtualClock
from simulations.machine.disk import MemoryDisk
from tests.mesh.picture.local_board import LocalBoard
from tests.mesh.picture.words import BAD, GOOD, OWN, claim, peer
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

FRIEND, SUBJECT, SEEN = peer(1), peer(2), peer(3)


class SharedBoard(LocalBoard):
    """A board on which the test writes what others say."""

    def say(self, author: PeerId, topic: Topic, key: str, body: bytes) -> None:
        self._sequence += 1
        heard = Heard(author, topic, key, body, 0, self._sequence)
        self._items[topic, f"{author} {key}"] = (self._clock.monotonic() + 3600, heard)
        self._feeds[topic].tell(heard)

    def report(self, author: PeerId, subject: PeerId, evidence: Evidence) -> None:
        self.say(author, Topic.OBSERVATIONS, subject, OBSERVATIONS_CODEC.encode(claim(subject, evidence)))


def digest() -> HealthDigest:
    return digest_of(Vitals(3.0, 1 << 30, 2 << 30, 0.25, 1, 0), int(VirtualClock().wall() * 1000))


def make(board: SharedBoard, disk: MemoryDisk | None = None, **options: object) -> Picture:
    return Picture(OWN, VirtualClock(), disk or MemoryDisk(), SeededRandomness(1), board, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def running(picture: Picture) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(picture.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def board() -> SharedBoard:
    return SharedBoard(OWN, VirtualClock())


async def test_a_stranger_and_this_node_itself_have_nothing_against_them(board: SharedBoard) -> None:
    picture = make(board)
    picture.observe(OWN, Outcome.WRONG)
    assert (picture.score(OWN), picture.score(SUBJECT)) == (1, 1)
    assert picture.explain(OWN).happenings == ()


async def test_what_is_seen_counts_at_once_and_a_wrong_result_for_everything(board: SharedBoard) -> None:
    picture = make(board)
    scores = [picture.score(SUBJECT)]
    for outcome in (Outcome.FAILED, Outcome.FAILED, Outcome.WRONG):
        picture.observe(SUBJECT, outcome, "session 1a2b3c4d")
        scores.append(picture.score(SUBJECT))
    assert scores[0] == 1
    assert scores[0] > scores[1] > scores[2] > 0.3
    assert scores[3] == 0
    assert picture.tally(SUBJECT).failed == pytest.approx(2)


async def test_a_peer_that_grants_and_never_serves_loses_its_score(board: SharedBoard) -> None:
    picture = make(board)
    for _ in range(10):
        picture.observe(SUBJECT, Outcome.FAILED, "granted layers 0-3 and did not claim them in time")
    assert picture.score(SUBJECT) < 0.6


async def test_a_score_recovers_with_time_and_is_looked_up_meanwhile(board: SharedBoard) -> None:
    picture = make(board)
    picture.observe(SUBJECT, Outcome.FAILED)
    first = picture.score(SUBJECT)
    await trio.sleep(0.5)
    assert picture.score(SUBJECT) == first
    await trio.sleep(28 * 86_400)
    assert first < picture.score(SUBJECT) < 1


async def test_own_observations_are_published_on_change_and_no_oftener_than_allowed(
    board: SharedBoard,
) -> None:
    picture = make(board)
    async with running(picture):
        with board.subscribe(Topic.OBSERVATIONS) as coming:
            for _ in range(40):
                picture.observe(SUBJECT, Outcome.FAILED)
                await trio.sleep(0.25)
            await trio.sleep(600)
            published = []
            with trio.move_on_after(1):
                while True:
                    published.append(await anext(coming))
    assert 2 <= len(published) <= 4  # in ten seconds, and none in the ten minutes after
    assert OBSERVATIONS_CODEC.decode(published[-1].body).tally.failed == pytest.approx(40, rel=0.01)
    assert board.items(Topic.OBSERVATIONS) == (published[-1],)


async def test_the_word_of_a_proven_reporter_lowers_a_score_and_is_explained(board: SharedBoard) -> None:
    picture = make(board)
    for _ in range(50):
        picture.observe(SEEN, Outcome.SERVED)
    board.report(FRIEND, SEEN, GOOD)  # before it runs: what stands on the board is read
    async with running(picture):
        board.report(FRIEND, SUBJECT, BAD)
        board.report(peer(7), SUBJECT, BAD)
        await trio.sleep(1)
        explained = picture.explain(SUBJECT)
        assert explained.score == picture.score(SUBJECT) < 0.7
        assert [(each.reporter, each.trust.agreed, each.counted > 0) for each in explained.reports] == [
            (FRIEND, 1, True),
            (peer(7), 0, False),
        ]
        assert explained.facets[0].own.bad == 0 < explained.facets[0].combined.bad
        board.say(FRIEND, Topic.OBSERVATIONS, SUBJECT, b"")
        await trio.sleep(2)
        assert picture.score(SUBJECT) == 1


async def test_nonsense_on_the_board_disturbs_nothing(board: SharedBoard) -> None:
    picture = make(board)
    async with running(picture):
        for topic in (Topic.OBSERVATIONS, Topic.HEALTH):
            board.say(FRIEND, topic, SUBJECT, b"nonsense")
        board.report(FRIEND, SUBJECT, BAD)
        await trio.sleep(1)
        assert [each.reporter for each in picture.explain(SUBJECT).reports] == [FRIEND]


async def test_a_flood_that_a_slow_reader_misses_is_read_from_the_board(board: SharedBoard) -> None:
    picture = make(board)
    async with running(picture):
        for number in range(limits.EVENTS_BEHIND_MAX + 10):
            board.report(peer(100 + number % 20), SUBJECT, BAD)
        board.report(FRIEND, SUBJECT, BAD)
        await trio.sleep(1)
        assert FRIEND in {each.reporter for each in picture.explain(SUBJECT).reports}


async def test_the_validator_refuses_what_is_not_to_be_spread(board: SharedBoard) -> None:
    picture = make(board)
    good = Heard(FRIEND, Topic.OBSERVATIONS, SUBJECT, OBSERVATIONS_CODEC.encode(claim(SUBJECT, BAD)), 0, 1)
    picture.check(good)
    picture.check(Heard(FRIEND, Topic.HEALTH, "", HEALTH_CODEC.encode(digest()), 0, 1))
    picture.check(Heard(FRIEND, Topic.HEALTH, "", b"", 0, 1))
    with pytest.raises(Dishonest):
        picture.check(replace(good, author=SUBJECT))
    for topic in (Topic.OBSERVATIONS, Topic.HEALTH):
        with pytest.raises(Malformed):
            picture.check(Heard(FRIEND, topic, SUBJECT, b"nonsense", 0, 1))


async def test_health_is_published_every_few_seconds_and_forgotten_when_it_stops(board: SharedBoard) -> None:
    picture = make(board, digest=digest)
    async with running(picture):
        board.say(FRIEND, Topic.HEALTH, "", HEALTH_CODEC.encode(digest()))
        made_ms = set()
        for _ in range(100):
            await trio.sleep(1)
            own = picture.health(OWN)
            assert own is not None
            made_ms.add(own.made_ms)
            if len(made_ms) == 2:
                assert picture.health(FRIEND) is not None
        assert picture.health(FRIEND) is None
        assert picture.health(SUBJECT) is None
    assert 17 <= len(made_ms) <= 24
    gaps_ms = {later - earlier for earlier, later in zip(sorted(made_ms), sorted(made_ms)[1:], strict=False)}
    assert len(gaps_ms) > 5  # with jitter
    assert all(4400 <= gap <= 5600 for gap in gaps_ms)


async def test_a_restarted_node_knows_what_it_knew(board: SharedBoard) -> None:
    disk = MemoryDisk()
    picture = make(board, disk)
    async with running(picture):
        picture.observe(SUBJECT, Outcome.FAILED, "session 1a2b3c4d")
        await trio.sleep(limits.PICTURE_SAVED_S + 1)
        crashed = dict(disk.files)
        picture.observe(SUBJECT, Outcome.WRONG, "at the last moment")
    for files, count in ((crashed, 1), (disk.files, 2)):
        again_disk = MemoryDisk()
        again_disk.files = dict(files)
        again = make(board, again_disk)
        assert len(again.explain(SUBJECT).happenings) == count
    assert make(board, disk).score(SUBJECT) == 0
    published = SharedBoard(OWN, VirtualClock())
    async with running(make(published, disk)):
        await trio.sleep(1)
        assert [heard.key for heard in published.items(Topic.OBSERVATIONS)] == [SUBJECT]


async def test_a_full_disk_and_a_damaged_file_stop_nobody(board: SharedBoard) -> None:
    disk = MemoryDisk()
    disk.files[LEDGER_FILE] = b"nonsense"
    picture = make(board, disk)
    disk.is_full = True
    async with running(picture):
        picture.observe(SUBJECT, Outcome.FAILED)
        await trio.sleep(3 * limits.PICTURE_SAVED_S)
        assert picture.score(SUBJECT) < 1
        disk.is_full = False
        await trio.sleep(limits.PICTURE_SAVED_S + 1)
        assert disk.files[LEDGER_FILE] != b"nonsense"
