"""The torch process as a `ShardWorker`: keeps one running, counts its memory, and fails its calls when it ends.

      spawn --> starting --Ready--> up --the socket ends--> down --delay--> spawn
                   |                 calls pass              calls raise WorkerDied
                   `-- ends first: the same, but the very first start then fails as a whole

The process enforces its memory; this side keeps the same books from its answers, so that `free_bytes` asks nobody.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
import trio

from inference.engine.batching.waiting import turns_of
from inference.engine.worker.books import WorkerBooks
from inference.engine.worker.link import Call, Connection, Progress, WorkerLink
from inference.engine.worker.restarts import Restarts
from inference.engine.worker.wire import (
    Answer,
    CacheOpened,
    CachesListed,
    CloseCache,
    Done,
    DropPrefixes,
    LimitRows,
    ListCaches,
    Loaded,
    LoadShard,
    Measured,
    MeasureLayer,
    OpenCache,
    Request,
    Step,
    Stepped,
    UnloadShard,
)
from mesh.nursery import peer_nursery
from protocols import limits
from protocols.errors import LocalFault, Unavailable, UserError, WorkerDied
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheKey, CacheSpec, ShardId, ShardLoaded, ShardSpec, StepResult, WorkerMemory
from protocols.tensor import Frame

log = structlog.get_logger("inference.worker")
AnswerT = TypeVar("AnswerT")


class WorkerProcess(Protocol):
    """A process and our end of the socketpair; it exits when that closes."""

    @property
    def connection(self) -> Connection: ...
    @property
    def pid(self) -> int: ...
    async def wait(self) -> int: ...
    def kill(self) -> None: ...


Spawn = Callable[[], Awaitable[WorkerProcess]]
"""Raises `LocalFault` if the machine has no process to give."""


@dataclass(frozen=True, slots=True)
class _Stepping:
    """Implements `protocols.seams.Stepping`."""

    link: WorkerLink
    call: Call

    async def result(self) -> StepResult:
        answer, out = await self.link.answer(self.call)
        stepped = _expected(answer, Stepped)
        return StepResult(out, stepped.token, stepped.step_ms, stepped.step_rows)


class WorkerClient:
    """Implements `protocols.seams.ShardWorker` while `run` runs.

    `memory_bytes` is what the process may use for shards and caches, `room_bytes` how many the machine has for more of them. A process
    that computes on a card says what it may use of that, and the machine's memory does not matter then.
    """

    def __init__(
        self, spawn: Spawn, memory_bytes: int, room_bytes: Callable[[], int] = lambda: sys.maxsize
    ) -> None:
        self._spawn = spawn
        self._room_bytes = room_bytes
        self._books = WorkerBooks(memory_bytes)
        self._link: WorkerLink | None = None
        self._has_been_up = False
        self._died = trio.Event()
        self._layers_done: dict[tuple[SessionId, int], int] = {}
        self._layers_for_nobody = (
            0  # of caches that were closed meanwhile: whoever waits behind them is not stuck
        )
        self.pid: int | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started when the first process is up. Raises `LocalFault` if that one ends before it is, or what it says then."""
        restarts = Restarts()
        while True:
            restarts.started(trio.current_time())
            try:
                async with self._process() as link:
                    self._link = link
                    if not self._has_been_up:
                        self._has_been_up = True
                        task_status.started()
                    await link.ended.wait()
            except (LocalFault, UserError) as error:
                if not self._has_been_up:
                    raise
                log.warning("worker_failed", reason=str(error))
            self._lose_everything()
            delay_s = restarts.delay_s(trio.current_time())
            log.warning("worker_ended", restart_in_s=delay_s)
            await trio.sleep(delay_s)

    # ShardWorker -----------------------------------------------------------------------------------------------------

    async def measure_layer(self, shape: LayerShape) -> float:
        return (await self._ask(MeasureLayer(shape), Measured)).layer_ms

    def free_bytes(self) -> int:
        books = self._books
        if books.device != "cpu":
            return books.free_bytes
        return min(books.free_bytes, max(0, self._room_bytes() + books.prefix_bytes - books.promised_bytes))

    def memory(self) -> WorkerMemory:
        return self._books.memory()

    async def caches(self) -> tuple[CacheKey, ...]:
        return (await self._ask(ListCaches(), CachesListed)).caches

    async def limit_rows(self, rows: int | None) -> None:
        await self._ask(LimitRows(rows), Done)

    async def drop_prefixes(self) -> None:
        await self._ask(DropPrefixes(), Done)

    def waiting(self) -> int:
        return max(0, self._link.unanswered - 1) if self._link is not None else 0

    async def load(self, spec: ShardSpec, on_progress: Progress) -> ShardLoaded:
        async with self._undone_by(UnloadShard(spec.shard)):
            loaded = (await self._ask(LoadShard(spec), Loaded, on_progress=on_progress)).loaded
        self._forget_caches(spec.shard)
        self._books.loaded(spec.shard, loaded.resident_bytes)
        return loaded

    async def unload(self, shard: ShardId) -> None:
        await self._ask(UnloadShard(shard), Done)
        self._books.unloaded(shard)
        self._forget_caches(shard)

    async def open_cache(self, shard: ShardId, session: SessionId, stage: int, spec: CacheSpec) -> int:
        async with self._undone_by(CloseCache(shard, session, stage)):
            opened = await self._ask(OpenCache(shard, session, stage, spec), CacheOpened)
        self._books.opened((shard, session, stage), opened.kv_bytes, spec.rows_max, opened.rows)
        self._layers_done[session, stage] = -self._layers_for_nobody
        return opened.rows

    async def step(self, shard: ShardId, frame: Frame) -> StepResult:
        return await self.start_step(shard, frame).result()

    def start_step(
        self, shard: ShardId, frame: Frame, on_end: Callable[[], None] = lambda: None
    ) -> _Stepping:
        link, header = self._up(), frame.header
        key = (header.session, header.stage)
        left = shard.range.layers * turns_of(header.position, header.rows)

        def on_work(layers: int) -> None:
            nonlocal left
            left -= layers
            self._note_work(key, layers)

        def end() -> None:
            if isinstance(call.answer, Stepped):
                self._note_work(key, left)
                self._books.wrote((shard, *key), header.position + header.rows)
            on_end()

        call = link.post(Step(shard, header, frame.tokens), frame.body, on_work=on_work, on_end=end)
        return _Stepping(link, call)

    async def close_cache(self, shard: ShardId, session: SessionId, stage: int) -> None:
        # Before the answer: the worker closes it whether or not somebody is left to hear so.
        self._books.closed((shard, session, stage))
        self._layers_done.pop((session, stage), None)
        await self._ask(CloseCache(shard, session, stage), Done)

    def work(self, stages: Iterable[tuple[SessionId, int]]) -> int:
        done = [self._layers_done[key] for key in stages if key in self._layers_done]
        return sum(done) + len(done) * self._layers_for_nobody

    async def wait_died(self) -> None:
        await self._died.wait()

    # Inside ----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[WorkerLink]:
        """A process that is up; told to end on the way out, and killed if it does not. Raises `LocalFault`."""
        process = await self._spawn()
        self.pid = process.pid
        link = WorkerLink(process.connection, self._books.kept)
        try:
            async with peer_nursery() as nursery:
                nursery.start_soon(link.run)
                if not await link.comes_up():
                    raise link.refusal or LocalFault(
                        "the worker process did not come up: its own output above says why"
                    )
                self._books.came_up(link.ready.device, link.ready.budget_bytes)
                yield link
                nursery.cancel_scope.cancel()
        finally:
            self.pid = None
            await _end(process)

    @asynccontextmanager
    async def _undone_by(self, undo: Request) -> AsyncIterator[None]:
        """Whoever is cancelled while the worker makes something does not leave it there."""
        link = self._up()
        try:
            yield
        except trio.Cancelled:
            with suppress(Unavailable):
                link.post(undo)
            raise

    async def _ask(
        self, request: Request, expected: type[AnswerT], *, on_progress: Progress | None = None
    ) -> AnswerT:
        answer, _ = await self._up().call(request, on_progress=on_progress)
        return _expected(answer, expected)

    def _up(self) -> WorkerLink:
        if self._link is None:
            raise WorkerDied("the worker process has ended and the next one is not up yet")
        return self._link

    def _note_work(self, key: tuple[SessionId, int], layers: int) -> None:
        if key in self._layers_done:
            self._layers_done[key] += layers
        else:
            self._layers_for_nobody += layers

    def _forget_caches(self, shard: ShardId) -> None:
        for key in self._books.caches_of(shard):
            self._books.closed(key)
            self._layers_done.pop(key[1:], None)

    def _lose_everything(self) -> None:
        self._link = None
        self._books.lost()
        self._layers_done.clear()
        self._died.set()
        self._died = trio.Event()


async def _end(process: WorkerProcess) -> None:
    with trio.CancelScope(shield=True):
        process.connection.close()
        with trio.move_on_after(limits.WORKER_STOP_S) as patience:
            await process.wait()
        if patience.cancelled_caught:
            process.kill()
            await process.wait()


def _expected(answer: Answer, expected: type[AnswerT]) -> AnswerT:
    if not isinstance(answer, expected):
        raise LocalFault(f"the worker answered {type(answer).__name__} where {expected.__name__} was due")
    return answer
