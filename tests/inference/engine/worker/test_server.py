"""The server of the torch process without a process: what it answers, when, and to whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from inference.engine.batching.cost_curve import BatchRows
from inference.engine.worker.server import Body, CacheKey, Server, StepOutput
from inference.engine.worker.wire import (
    Answer,
    CacheOpened,
    CloseCache,
    Done,
    DropPrefixes,
    Failed,
    Kept,
    Loaded,
    LoadShard,
    Measured,
    MeasureLayer,
    OpenCache,
    Reply,
    Request,
    Step,
    Stepped,
    UnloadShard,
    Worked,
)
from protocols.errors import Malformed, WeftError
from protocols.ids import ModelDigest, SessionId
from protocols.placement import LayerRange, LayerShape
from protocols.seams import CacheSpec, ShardId, ShardLoaded, ShardSpec
from protocols.tensor import DType, Frame, Header, Kind, Numerics

SHARD = ShardId(ModelDigest("ab" * 32), LayerRange(0, 4))
SPEC = ShardSpec(SHARD, b"", (), "f32", "exact")
SHAPE = LayerShape(hidden=32, ffn=64, heads=4, kv_heads=2, head_dim=8, dtype="f32")


@dataclass
class Machine:
    """Implements `Engine`, `Engines` and `Daemon`, with its own clock: a layer takes `layer_s` and `row_s` a row."""

    layer_s: float = 0.001
    row_s: float = 0.0
    now: float = 100.0
    turns: list[list[int]] = field(default_factory=list)
    replies: list[tuple[int, Reply, Body]] = field(default_factory=list)
    open: set[CacheKey] = field(default_factory=set)
    failure: BaseException | None = None
    pulls: int = 0
    rows_kept: int = 0
    prefix_bytes: int = 0
    loaded = ShardLoaded(7, "fake", True)
    batch_rows = BatchRows(4, 4)

    def __post_init__(self) -> None:
        self.server = Server(self, self, lambda: self.now)
        self.calls = 0

    # Engines and Engine

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> Machine:
        on_progress(1, 2)
        return self

    def measure_layer(self, shape: LayerShape) -> float:
        return 3.0

    def drop_prefixes(self) -> None:
        self.prefix_bytes = 0

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        self.open.add(key)
        return 9

    def rows(self, key: CacheKey) -> int:
        return self.rows_kept

    def close_cache(self, key: CacheKey) -> None:
        self.open.remove(key)

    def close(self) -> None:
        self.open.clear()

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> list[StepOutput | WeftError]:
        if self.failure is not None:
            raise self.failure
        self.turns.append([int(key[0], 16) for key, _ in work])
        rows = sum(frame.header.rows for _, frame in work)
        for _ in range(SHARD.range.layers):
            self.now += self.layer_s + self.row_s * rows
            on_layer()
        return [
            Malformed("odd") if frame.tokens[0] == 13 else (bytes(frame.header.rows), frame.header.position)
            for _, frame in work
        ]

    # Daemon

    def send(self, replies: Sequence[tuple[int, Reply, Body]]) -> None:
        self.replies += replies

    def pull(self) -> None:
        self.pulls += 1

    # The test's

    def ask(self, request: Request) -> int:
        self.calls += 1
        self.server.take(self.calls, request, bytearray())
        return self.calls

    def step(self, session: int, rows: int = 1, token: int = 1) -> int:
        key = SessionId(f"{session:032x}")
        header = Header(Kind.DECODE, key, 0, 0, 0, rows, 0, 0, Numerics.EXACT, DType.F32, sample=True)
        return self.ask(Step(SHARD, header, (token,) * rows))

    def opened(self, *sessions: int) -> Machine:
        self.ask(LoadShard(SPEC))
        for session in sessions:
            self.ask(OpenCache(SHARD, SessionId(f"{session:032x}"), 0, CacheSpec(1, 9, None)))
        return self

    def compute(self) -> None:
        while not self.server.is_idle:
            self.server.compute()

    def answer(self, call: int) -> Answer:
        (answer,) = [
            reply for number, reply, _ in self.replies if number == call and isinstance(reply, Answer)
        ]
        return answer


def test_control_is_answered_at_once_and_steps_in_their_turns() -> None:
    machine = Machine().opened(1, 2)
    steps = [machine.step(session) for session in (1, 2, 1)]
    measured = machine.ask(MeasureLayer(SHAPE))
    assert machine.answer(measured) == Measured(3.0)
    machine.compute()
    assert machine.turns == [[1, 2], [1]]
    for call in steps:
        assert isinstance(machine.answer(call), Stepped)
    assert [type(machine.answer(call)) for call in (1, 2, 3)] == [Loaded, CacheOpened, CacheOpened]
    assert [number for number, reply, _ in machine.replies if isinstance(reply, Stepped)] == steps


def test_a_step_is_told_the_time_and_the_rows_of_its_turn() -> None:
    machine = Machine(layer_s=0.001, row_s=0.001).opened(1, 2, 3)
    alone = machine.step(1)
    machine.compute()
    together = [machine.step(1), machine.step(2, 2)]
    machine.compute()
    assert machine.answer(alone) == Stepped(0, pytest.approx(8.0), 1)
    for call in together:
        assert machine.answer(call) == Stepped(0, pytest.approx(16.0), 3)


def test_whoever_may_have_to_wait_for_a_slow_chunk_is_told_so() -> None:
    machine = Machine(row_s=0.02).opened(1, 2)
    machine.step(2, 128)
    machine.compute()
    decode = machine.step(1)
    machine.compute()
    answer = machine.answer(decode)
    assert isinstance(answer, Stepped)
    assert answer.step_ms == pytest.approx(
        1000 * (0.001 + 0.02 * 128)
    )  # a layer of the chunk, and not its own 84 ms


def test_every_call_of_a_turn_hears_of_its_layers() -> None:
    machine = Machine(layer_s=0.04).opened(1, 2, 3)
    first, second = machine.step(1), machine.step(2)
    behind = [machine.step(1)]
    machine.compute()
    told = [reply for _, reply, _ in machine.replies if isinstance(reply, Worked)]
    assert told == [Worked((first, second), 2), Worked((first, second), 2)] + [Worked((behind[0],), 2)] * 2
    assert machine.pulls == 8


def test_a_long_step_is_answered_once_with_all_its_rows() -> None:
    machine = Machine().opened(1)
    call = machine.step(1, 300)
    machine.compute()
    assert machine.turns == [[1]] * 3
    assert machine.answer(call) == Stepped(256, pytest.approx(4.0), 44)
    assert [len(out) for number, _, out in machine.replies if number == call] == [300]


def test_what_is_wrong_with_one_step_of_a_turn_harms_no_other() -> None:
    machine = Machine().opened(1, 2)
    bad, good = machine.step(1, token=13), machine.step(2)
    after = machine.step(1)
    machine.compute()
    assert machine.answer(bad) == Failed("Malformed", "odd")
    assert isinstance(machine.answer(good), Stepped)
    assert isinstance(machine.answer(after), Stepped)


def test_a_long_step_that_fails_in_one_piece_is_over() -> None:
    machine = Machine().opened(1)
    call = machine.step(1, 300, token=13)
    machine.compute()
    assert machine.turns == [[1]]
    assert machine.answer(call) == Failed("Malformed", "odd")


def test_no_memory_for_a_turn_fails_its_steps_alone() -> None:
    machine = Machine(failure=MemoryError()).opened(1, 2)
    calls = [machine.step(1), machine.step(2)]
    machine.compute()
    for call in calls:
        answer = machine.answer(call)
        assert isinstance(answer, Failed)
        assert answer.kind == "Overloaded"
    machine.failure = None
    again = machine.step(1)
    machine.compute()
    assert isinstance(machine.answer(again), Stepped)


def close(session: int) -> Request:
    return CloseCache(SHARD, SessionId(f"{session:032x}"), 0)


def reopen(session: int) -> Request:
    return OpenCache(SHARD, SessionId(f"{session:032x}"), 0, CacheSpec(1, 9, None))


@pytest.mark.parametrize("closing", [close(1), reopen(1), UnloadShard(SHARD), LoadShard(SPEC)])
def test_steps_that_wait_when_their_cache_closes_are_unavailable(closing: Request) -> None:
    machine = Machine().opened(1, 2)
    dropped, other = machine.step(1), machine.step(2)
    closed = machine.ask(closing)
    machine.compute()
    answer = machine.answer(dropped)
    assert isinstance(answer, Failed)
    assert answer.kind == "Unavailable"
    assert isinstance(machine.answer(closed), Done | CacheOpened | Loaded)
    of_the_whole_shard = isinstance(closing, UnloadShard | LoadShard)
    assert isinstance(machine.answer(other), Failed if of_the_whole_shard else Stepped)
    assert machine.turns == ([] if of_the_whole_shard else [[2]])
    assert machine.server.is_idle


def test_a_step_without_a_cache_is_unavailable_at_once() -> None:
    machine = Machine().opened()
    for call in (machine.step(1), machine.ask(reopen(1)), machine.ask(close(1)), machine.ask(close(1))):
        assert machine.answer(call)
    answer = machine.answer(2)
    assert isinstance(answer, Failed)
    assert answer.kind == "Unavailable"
    assert machine.open == set()


def test_a_turn_waits_for_its_usual_company_a_tenth_of_what_turns_take_and_no_longer() -> None:
    machine = Machine().opened(1, 2)
    assert machine.server.wait_s() == math.inf
    for session in (1, 2):
        machine.step(session)
    assert machine.server.wait_s() == 0
    began = machine.now
    machine.compute()
    turn_s = machine.now - began
    machine.now += 5
    machine.step(1)
    assert machine.server.wait_s() == pytest.approx(0.1 * turn_s)
    machine.now += 0.06 * turn_s
    assert machine.server.wait_s() == pytest.approx(0.04 * turn_s)
    machine.now += turn_s
    assert machine.server.wait_s() == 0
    machine.step(2)
    assert machine.server.wait_s() == 0


def test_what_is_kept_for_later_sessions_is_told_before_the_answer_and_only_when_it_changes() -> None:
    machine = Machine(rows_kept=256)
    machine.opened(1)
    opened = machine.calls
    assert machine.answer(opened) == CacheOpened(9, 256)
    assert not any(isinstance(reply, Kept) for _, reply, _ in machine.replies)
    machine.prefix_bytes = 700
    stepped = machine.step(1)
    machine.compute()
    again, dropped = machine.ask(MeasureLayer(SHAPE)), machine.ask(DropPrefixes())
    said = [(number, reply) for number, reply, _ in machine.replies if number in (0, stepped, again, dropped)]
    assert said[:2] == [(0, Kept(700)), (stepped, machine.answer(stepped))]
    assert said[2:] == [(again, Measured(3.0)), (0, Kept(0)), (dropped, Done())]
