"""The torch process of a simulated node: the product's own server over an engine of choice, on modelled time.

`inference.engine.worker_server.Server` answers every request, as it does in the real process; in place of the socketpair
stands the `Processor`, which says when. With the arithmetic of `simulations.machine.arithmetic` no torch is needed.

It is a process beside the daemon: it computes on while the daemon is stopped, and ends by itself only with `crash`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from inference.engine.worker.books import WorkerBooks
from inference.engine.worker.server import Body, Engines, Server
from inference.engine.worker.wire import (
    Answer,
    CacheOpened,
    CachesListed,
    CloseCache,
    Done,
    DropPrefixes,
    Failed,
    Kept,
    LimitRows,
    ListCaches,
    Loaded,
    LoadShard,
    OpenCache,
    Reply,
    Request,
    Step,
    Stepped,
    UnloadShard,
)
from protocols import limits
from protocols.errors import LocalFault, Overloaded, Unavailable, WorkerDied
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheKey, CacheSpec, ShardId, ShardLoaded, ShardSpec, StepResult, WorkerMemory
from protocols.tensor import Frame, Header
from simulations.machine.arithmetic import LAYER_BYTES, ArithmeticEngines
from simulations.machine.processor import Job, Processor

AnswerT = TypeVar("AnswerT")
MakeEngines = Callable[[Callable[[], int]], Engines]
"""Of a fresh process, told how many bytes of its memory are free."""


class _Inline:
    """Implements `inference.engine.worker_server.Daemon`: keeps what the last request was answered."""

    def __init__(self, books: WorkerBooks) -> None:
        self._books = books
        self.answer: Answer | None = None
        self.out: Body = b""

    def send(self, replies: Sequence[tuple[int, Reply, Body]]) -> None:
        for _, reply, out in replies:
            if isinstance(reply, Answer):
                self.answer, self.out = reply, out
            elif isinstance(reply, Kept):
                self._books.kept(reply.prefix_bytes)

    def pull(self) -> None:
        """There is never more."""


class _Process:
    """One life of the worker process, with the same books as `inference.engine.worker.client` keeps."""

    def __init__(self, engines: MakeEngines, memory_bytes: int) -> None:
        self.died = trio.Event()
        self.work: Counter[tuple[SessionId, int]] = Counter()
        self.books = WorkerBooks(memory_bytes)
        self._daemon = _Inline(self.books)
        self._server = Server(self._daemon, engines(lambda: self.books.free_bytes), trio.current_time)

    def serve(self, request: Request, body: bytearray) -> tuple[Answer, Body]:
        """The one answer; raises what it says went wrong."""
        self._server.take(0, request, body)
        while not self._server.is_idle:
            self._server.compute()
        answer, out = self._daemon.answer, self._daemon.out
        assert answer is not None
        if isinstance(answer, Failed):
            raise answer.as_error()
        if isinstance(request, Step):
            self._note_step(request)
        else:
            self._note(request, answer)
        return answer, out

    def _note_step(self, step: Step) -> None:
        header = step.header
        self.work[header.session, header.stage] += step.shard.range.layers
        self.books.wrote((step.shard, header.session, header.stage), header.position + header.rows)

    def _note(self, request: Request, answer: Answer) -> None:
        match request, answer:
            case LoadShard(spec), Loaded(loaded):
                self._forget(spec.shard)
                self.books.loaded(spec.shard, loaded.resident_bytes)
            case UnloadShard(shard), _:
                self._forget(shard)
            case OpenCache(shard, session, stage, spec), CacheOpened(kv_bytes, rows):
                self.books.opened((shard, session, stage), kv_bytes, spec.rows_max, rows)
                self.work[session, stage] = 0
            case CloseCache(shard, session, stage), _:
                self.books.closed((shard, session, stage))
                del self.work[session, stage]
            case _:
                pass

    def _forget(self, shard: ShardId) -> None:
        self.books.unloaded(shard)
        for key in self.books.caches_of(shard):
            self.books.closed(key)
            del self.work[key[1:]]


_Answering = Job[tuple[Answer, Body]]
"""A request that is on its way."""


@dataclass(frozen=True, slots=True)
class _Stepping:
    """Implements `protocols.seams.Stepping`."""

    processor: Processor
    job: _Answering

    async def result(self) -> StepResult:
        answer, out = await self.processor.outcome(self.job)
        stepped = _expected(answer, Stepped)
        step_ms = 1000 * (self.job.ended_s - (self.job.began_s or 0.0))
        return StepResult(out, stepped.token, step_ms, stepped.step_rows)


def _unwatched(_: Header) -> None:
    """What is computed without an observer."""


class VirtualWorker:
    """Implements `protocols.seams.ShardWorker`. Computes one request at a time, in the order they came; `witness` hears of each
    step before it begins.

    A step takes `layer_ms` per layer plus `row_ms` per layer and row; a load `load_s`; a restart after `crash` takes
    `restart_s`, during which every call raises `WorkerDied`.
    """

    def __init__(
        self,
        *,
        layer_ms: float = 1.0,
        row_ms: float = 0.01,
        load_s: float = 0.1,
        restart_s: float = 0.5,
        memory_bytes: int = 1 << 30,
        numerics_class: str = "virtual",
        engines: MakeEngines | None = None,
    ) -> None:
        self._layer_ms, self._row_ms, self._load_s, self._restart_s = layer_ms, row_ms, load_s, restart_s
        self._engines = engines or partial(ArithmeticEngines, numerics_class=numerics_class)
        self.witness: Callable[[Header], None] = _unwatched
        self._up_at = 0.0
        self._processor = Processor()
        self._process = self._start(memory_bytes)

    # Faults ----------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """End the process: pending calls raise `WorkerDied`, shards and caches are gone."""
        self._up_at = trio.current_time() + self._restart_s
        died = self._process.died
        self._processor.die()
        self._process = self._start(self.memory_bytes)
        died.set()

    def hang(self) -> None:
        """Compute nothing from now on, without failing, until `resume` or `crash`."""
        self._processor.set_speed(hangs=True)

    def resume(self) -> None:
        self._processor.set_speed(hangs=False)

    def slow(self, factor: float) -> None:
        """Everything takes `factor` times as long from now on, what is under way included; 1 is full speed."""
        self._processor.set_speed(factor=factor)

    @property
    def memory_bytes(self) -> int:
        """What it may take; set to less than it has taken, it keeps that."""
        return self._process.books.budget_bytes

    @memory_bytes.setter
    def memory_bytes(self, memory_bytes: int) -> None:
        self._process.books.budget_bytes = memory_bytes

    # For observers ---------------------------------------------------------------------------------------------------

    @property
    def kv_bytes(self) -> int:
        """Held by all caches."""
        return sum(self.sessions.values())

    @property
    def sessions(self) -> Mapping[SessionId, int]:
        """The bytes that the caches of each session hold."""
        self._processor.settle()
        held: Counter[SessionId] = Counter()
        for cache in self._process.books.memory().caches:
            held[cache.session] += cache.reserved_bytes
        return held

    # ShardWorker -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return None if trio.current_time() < self._up_at else 1

    async def measure_layer(self, shape: LayerShape) -> float:
        del shape
        await self._compute(self._layer_ms / 1000)
        return (self._layer_ms + self._row_ms) * self._processor.factor

    def free_bytes(self) -> int:
        self._processor.settle()
        return self._process.books.free_bytes

    def memory(self) -> WorkerMemory:
        self._processor.settle()
        return self._process.books.memory()

    async def caches(self) -> tuple[CacheKey, ...]:
        return (await self._ask(ListCaches(), CachesListed)).caches

    async def limit_rows(self, rows: int | None) -> None:
        await self._ask(LimitRows(rows), Done)

    async def drop_prefixes(self) -> None:
        await self._ask(DropPrefixes(), Done)

    def waiting(self) -> int:
        return self._processor.waiting

    async def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> ShardLoaded:
        layers = spec.shard.range.layers
        async with self._undone_by(UnloadShard(spec.shard)):
            job = self._post(LoadShard(spec), self._load_s)
            for done in range(layers):
                await self._processor.until(job, done / layers)
                on_progress(done * LAYER_BYTES, layers * LAYER_BYTES)
            answer, _ = await self._processor.outcome(job)
            loaded = _expected(answer, Loaded).loaded
        on_progress(layers * LAYER_BYTES, layers * LAYER_BYTES)
        return loaded

    async def unload(self, shard: ShardId) -> None:
        await self._ask(UnloadShard(shard), Done)

    async def open_cache(self, shard: ShardId, session: SessionId, stage: int, spec: CacheSpec) -> int:
        async with self._undone_by(CloseCache(shard, session, stage)):
            return (await self._ask(OpenCache(shard, session, stage, spec), CacheOpened)).rows

    async def step(self, shard: ShardId, frame: Frame) -> StepResult:
        return await self.start_step(shard, frame).result()

    def start_step(
        self, shard: ShardId, frame: Frame, on_end: Callable[[], None] = lambda: None
    ) -> _Stepping:
        self.witness(frame.header)
        cost_s = shard.range.layers * (self._layer_ms + self._row_ms * frame.header.rows) / 1000
        job = self._post(Step(shard, frame.header, frame.tokens), cost_s, frame.body)
        self._processor.tell_end(job, on_end)
        return _Stepping(self._processor, job)

    async def close_cache(self, shard: ShardId, session: SessionId, stage: int) -> None:
        await self._ask(CloseCache(shard, session, stage), Done)

    def work(self, stages: Iterable[tuple[SessionId, int]]) -> int:
        running = self._processor.running()  # first, since it settles what has ended
        asked, work = frozenset(stages), self._process.work
        done = sum([work[key] for key in asked if key in work])
        match running:
            case Job(what=Step(shard, header)), share if (header.session, header.stage) in asked:
                return done + int(share * shard.range.layers)
            case _:
                return done

    async def wait_died(self) -> None:
        await self._process.died.wait()

    # Inside ----------------------------------------------------------------------------------------------------------

    def _start(self, memory_bytes: int) -> _Process:
        return _Process(self._engines, memory_bytes)

    async def _ask(self, request: Request, expected: type[AnswerT]) -> AnswerT:
        answer, _ = await self._processor.outcome(self._post(request))
        return _expected(answer, expected)

    def _post(self, request: Request, cost_s: float = 0.0, body: Body = b"") -> _Answering:
        """Raises `WorkerDied`, or `Overloaded` if too many wait already."""
        self._check_up()
        if self._processor.waiting >= limits.WORKER_REQUESTS_MAX:
            raise Overloaded(f"{limits.WORKER_REQUESTS_MAX} requests wait for the worker")
        process, sent = self._process, bytearray(body)
        return self._processor.post(request, cost_s, lambda: process.serve(request, sent))

    async def _compute(self, seconds: float) -> None:
        self._check_up()
        await self._processor.until(self._processor.post(None, seconds, lambda: None))

    def _check_up(self) -> None:
        if trio.current_time() < self._up_at:
            raise WorkerDied("the worker process has ended and the next one is not up yet")

    @asynccontextmanager
    async def _undone_by(self, undo: Request) -> AsyncIterator[None]:
        """Whoever is cancelled while the worker makes something does not leave it there."""
        process = self._process
        try:
            yield
        except trio.Cancelled:
            if process is self._process:
                with suppress(Unavailable):
                    self._post(undo)
            raise


def _expected(answer: Answer, expected: type[AnswerT]) -> AnswerT:
    if not isinstance(answer, expected):
        raise LocalFault(f"the worker answered {answer!r} where {expected.__name__} was due")
    return answer
