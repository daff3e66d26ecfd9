"""Turns of the worker: who goes together, who goes next, and that everybody goes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.batching.batch import TURNS_REMEMBERED, StepQueue
from inference.engine.batching.cost_curve import BatchRows
from inference.engine.batching.waiting import StepKey, WaitingStep
from protocols import limits
from protocols.errors import Overloaded, Unavailable
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId
from protocols.tensor import DType, Frame, Header, Kind, Numerics

SHARDS = tuple(ShardId(ModelDigest("ab" * 32), LayerRange(at, at + 1)) for at in range(3))
ROWS = BatchRows(best=16, free=4)
LONG = 128


def key_of(session: int, shard: int = 0) -> StepKey:
    return SHARDS[shard], SessionId(f"{session:032x}"), 0


def step_of(key: StepKey, rows: int = 1, call: int = 0) -> WaitingStep:
    header = Header(Kind.DECODE, key[1], 0, 0, 0, rows, 0, 0, Numerics.EXACT, DType.F32)
    return WaitingStep(key, call, Frame(header, (1,) * rows, b""))


@dataclass
class Bench:
    """A queue with what it was asked for."""

    rows: BatchRows = ROWS
    queue: StepQueue = field(default_factory=StepQueue)

    def __post_init__(self) -> None:
        for shard in SHARDS:
            self.queue.hold(shard, self.rows)

    def open(self, *sessions: int, peer: str = "", stages: int = 1, shard: int = 0) -> None:
        for session in sessions:
            self.queue.open(key_of(session, shard), CacheSpec(1, 9, None, PeerId(peer), stages))

    def ask(self, *sessions: int, rows: int = 1, shard: int = 0) -> None:
        for session in sessions:
            self.queue.add(step_of(key_of(session, shard), rows))

    def turn(self) -> list[int]:
        """The sessions of the next turn."""
        steps = self.queue.next()
        for step in steps:
            step.add(b"")
        self.queue.done(steps)
        return [int(step.key[1], 16) for step in steps]

    def turns(self) -> list[list[int]]:
        turns = []
        while sessions := self.turn():
            turns.append(sessions)
        return turns


def test_what_waits_goes_together_one_step_of_a_session_at_a_time() -> None:
    bench = Bench()
    bench.open(1, 2, 3)
    bench.ask(1, 2, 1, 3, 1)
    assert bench.turns() == [[1, 2, 3], [1], [1]]
    assert bench.queue.is_idle


def test_shards_take_turns_and_never_share_one() -> None:
    bench = Bench()
    for shard in (0, 1):
        bench.open(1, 2, shard=shard)
        bench.ask(1, 2, 1, 2, shard=shard)
    steps = [bench.queue.next()]
    seen = []
    while steps[-1]:
        (shard,) = {step.key[0] for step in steps[-1]}
        seen.append(SHARDS.index(shard))
        for step in steps[-1]:
            step.add(b"")
        bench.queue.done(steps[-1])
        steps.append(bench.queue.next())
    assert seen == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("sessions", "stages", "rows", "size"),
    [
        (3, 1, ROWS, 3),
        (16, 1, ROWS, 16),
        (40, 1, ROWS, 16),  # never more than `best`
        (16, 2, ROWS, 8),
        (17, 2, ROWS, 9),
        (16, 8, ROWS, 4),  # fewer than are free would gain nobody anything
        (16, 8, BatchRows(16, 1), 2),
        (9, 3, BatchRows(16, 1), 3),
        (5, 1, BatchRows(1, 1), 1),
    ],
)
def test_a_ring_has_a_group_for_every_stage(sessions: int, stages: int, rows: BatchRows, size: int) -> None:
    bench = Bench(rows)
    bench.open(*range(sessions), stages=stages)
    bench.ask(*range(sessions))
    assert len(bench.turn()) == size


def test_sessions_that_end_make_room_in_the_groups_of_the_others() -> None:
    bench = Bench(BatchRows(16, 1))
    bench.open(*range(8), stages=4)
    for session in range(4):
        bench.queue.close(key_of(session))
    bench.ask(4, 5, 6, 7)
    assert [len(turn) for turn in bench.turns()] == [1, 1, 1, 1]


def test_a_chunk_goes_between_and_only_one() -> None:
    bench = Bench()
    bench.open(1, 2, 8, 9)
    bench.ask(8, 9, 8, 9, rows=LONG)
    seen = [bench.turn()]
    for _ in range(4):
        bench.ask(1, 2)
        seen += [bench.turn(), bench.turn()]
    assert seen == [[8], [1, 2], [9], [1, 2], [8], [1, 2], [9], [1, 2], []]


def test_a_decode_waits_for_one_chunk_at_most() -> None:
    bench = Bench(BatchRows(2, 1))
    bench.open(*range(5), 8, 9)
    bench.ask(*[8] * 5, *[9] * 5, rows=LONG)
    bench.ask(*range(5))
    turns = bench.turns()
    for session in range(5):
        before = turns[: next(at for at, turn in enumerate(turns) if session in turn)]
        assert sum(turn in ([8], [9]) for turn in before) <= 1
    chunks = [turn for turn in turns if turn in ([8], [9])]
    assert chunks == [[8], [9]] * 5


def test_a_long_step_is_cut_and_its_pieces_take_turns_with_those_of_others() -> None:
    bench = Bench()
    bench.open(1, 2, 3)
    bench.ask(1, rows=3 * LONG)
    bench.ask(2, rows=2 * LONG + 1)
    seen = [bench.turn()]
    bench.ask(3)
    # The tail of the second is short: it does not wait for a chunk of the first.
    assert seen + bench.turns() == [[1], [3], [2], [1], [2], [2], [1]]


def test_a_peer_with_many_sessions_has_as_many_turns_as_one_with_few() -> None:
    bench = Bench(BatchRows(2, 1))
    bench.open(*range(10), peer="crowd")
    bench.open(20, peer="lone")
    bench.ask(*range(10), 20)
    assert bench.turn() == [0, 20]
    bench.ask(20)
    assert bench.turn() == [1, 20]
    bench.open(30, 31, peer="crowd", shard=1)
    bench.open(40, peer="other", shard=2)
    bench.ask(30, 31, rows=LONG, shard=1)
    bench.ask(40, rows=LONG, shard=2)
    chunks = [turn for turn in bench.turns() if turn[0] >= 30]
    assert chunks == [[30], [40], [31]]


def test_steps_of_a_closed_cache_are_given_back_and_the_others_go_on() -> None:
    bench = Bench()
    bench.open(1, 2, 3)
    bench.ask(1, 2, 1)
    bench.ask(3, rows=LONG)
    assert [step.key for step in bench.queue.close(key_of(1))] == [key_of(1)] * 2
    assert bench.queue.close(key_of(1)) == []
    with pytest.raises(Unavailable):
        bench.ask(1)
    assert sorted(bench.turns()) == [[2], [3]]
    bench.ask(2)
    assert [step.key for step in bench.queue.release(SHARDS[0])] == [key_of(2)]
    assert bench.queue.release(SHARDS[0]) == []
    assert bench.queue.is_idle


def test_steps_past_the_credits_of_a_session_and_sessions_past_the_bound_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_MAX", 2)
    bench = Bench()
    bench.open(1, 2, 3)
    bench.ask(*[1] * limits.CREDITS_PER_SESSION, 2)
    for session in (1, 3):
        with pytest.raises(Overloaded):
            bench.ask(session)
    assert len(bench.turn()) == 2
    bench.ask(3)


@dataclass
class Load:
    """What hypothesis draws: sessions with their peers, shards, stages and the rows of their steps."""

    best: int
    free: int
    sessions: list[tuple[int, int, int, int]]
    arrivals: list[list[int]]


LOADS = st.builds(
    Load,
    best=st.integers(1, 8),
    free=st.integers(1, 8),
    sessions=st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 2), st.integers(1, 4), st.sampled_from([1, 1, 3, 9, 128, 300])
        ),
        min_size=1,
        max_size=12,
    ),
    arrivals=st.lists(st.lists(st.integers(0, 11), max_size=6), max_size=30),
)


@settings(max_examples=150, deadline=None)
@given(load=LOADS)
def test_everybody_goes_within_a_bound_and_in_order_whatever_comes(load: Load) -> None:
    bench = Bench(BatchRows(load.best, load.free))
    keys, rows = [], []
    for session, (shard, peer, stages, count) in enumerate(load.sessions):
        bench.open(session, peer=str(peer), stages=stages, shard=shard)
        keys.append(key_of(session, shard))
        rows.append(count)
    waited: dict[int, int] = {}
    chunks_met: dict[int, int] = {}
    calls: dict[StepKey, int] = dict.fromkeys(keys, 0)
    ended: dict[StepKey, int] = dict.fromkeys(keys, 0)
    for arriving in [*load.arrivals, *[[]] * 400]:
        for session in arriving:
            if session < len(keys):
                key = keys[session]
                calls[key] += 1
                try:
                    bench.queue.add(step_of(key, rows[session], calls[key]))
                except Overloaded:
                    calls[key] -= 1
                    continue
        heads = {key: cache.steps[0] for key, cache in bench.queue._caches.items() if cache.steps}
        turn = bench.queue.next()
        assert bool(turn) == bool(heads)
        assert len({step.key for step in turn}) == len(turn)
        assert len({step.key[0] for step in turn}) <= 1
        assert len(turn) == 1 or sum(step.rows for step in turn) <= load.best
        is_chunk = bool(turn) and not turn[0].is_short
        for key, step in heads.items():
            session = keys.index(key)
            if step in turn:
                waited[session] = chunks_met[session] = 0
                continue
            waited[session] = waited.get(session, 0) + 1
            # Two turns of everybody who could be before it, and as many chunks between them.
            assert waited[session] <= 2 * (len(keys) + 1) ** 2
            chunks_met[session] = chunks_met.get(session, 0) + is_chunk if step.is_short else 0
            assert chunks_met[session] <= 1
        for step in turn:
            step.add(b"")
            if step.is_over:
                ended[step.key] += 1
                assert step.call == ended[step.key]
        bench.queue.done(turn)
    assert bench.queue.is_idle
    assert ended == calls


def test_a_limit_on_rows_holds_until_it_is_lifted_and_stops_nobody() -> None:
    bench = Bench(BatchRows(best=16, free=16))
    bench.open(*range(6))
    bench.queue.limit(2)
    bench.ask(*range(6))
    assert [bench.turn() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    bench.ask(0, rows=8)
    assert bench.turn() == [0], "more rows than that in one step go alone"
    bench.queue.limit(None)
    bench.ask(*range(6))
    assert bench.turn() == list(range(6))


def test_a_step_lacks_the_company_that_its_shard_lately_had() -> None:
    bench = Bench()
    bench.open(1, 2, 3)
    bench.ask(1)
    assert not bench.queue.lacks_company, "nobody ever came with it"
    bench.ask(2, 3)
    assert bench.turn() == [1, 2, 3]
    bench.ask(2)
    assert bench.queue.lacks_company
    bench.ask(1)
    assert bench.queue.lacks_company
    bench.ask(3)
    assert not bench.queue.lacks_company


def test_company_that_stays_away_is_forgotten_after_some_turns() -> None:
    bench = Bench()
    bench.open(1, 2)
    bench.ask(1, 2)
    bench.turn()
    lacking = []
    for _ in range(TURNS_REMEMBERED + 1):
        bench.ask(1)
        lacking.append(bench.queue.lacks_company)
        bench.turn()
    assert lacking == [True] * TURNS_REMEMBERED + [False]


def test_nobody_waits_for_company_while_there_is_other_work() -> None:
    bench = Bench()
    bench.open(1, 2)
    bench.open(3, shard=1)
    bench.ask(1, 2)
    bench.turn()
    bench.ask(1)
    bench.ask(3, shard=1)
    assert not bench.queue.lacks_company
    assert bench.turn() + bench.turn() == [1, 3]
    bench.ask(1)
    bench.ask(2, rows=LONG)
    assert not bench.queue.lacks_company
