"""The torch process as a `ShardWorker`: keeps one running, counts its memory, and fails its calls when it ends.

      spawn --> starting --Ready--> up --the socket ends--> down --delay--> spawn
                   |                 calls pass              calls raise WorkerDied
                   `-- ends first: the same, but the very first start then fails as a whole

The process enforces its memory; this side keeps the same books from its answers, so that `free_bytes` asks nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog
import trio

from inference.engine.restarts import Restarts
from inference.engine.worker_link import Call, Connection, Progress, WorkerLink
from inference.engine.worker_wire import (
    Answer,
    CacheOpened,
    CloseCache,
    Done,
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
from protocols.errors import LocalFault, Unavailable, WorkerDied
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardId, ShardLoaded, ShardSpec, StepResult
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
    advance: Callable[[], None]

    async def result(self) -> StepResult:
        answer, out = await self.link.answer(self.call)
        stepped = _expected(answer, Stepped)
        self.advance()
        return StepResult(out, stepped.token, stepped.step_ms)


class WorkerClient:
    """Implements `protocols.seams.ShardWorker` while `run` runs."""

    def __init__(self, spawn: Spawn, memory_bytes: int) -> None:
        self._spawn = spawn
        self._memory_bytes = memory_bytes
        self._link: WorkerLink | None = None
        self._has_been_up = False
        self._died = trio.Event()
        self._shard_bytes: dict[ShardId, int] = {}
        self._kv_bytes: dict[tuple[ShardId, SessionId, int], int] = {}
        self._layers_done: dict[tuple[SessionId, int], int] = {}
        self.pid: int | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started when the first process is up. Raises `LocalFault` if that one ends before it is."""
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
            except LocalFault as error:
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
        return self._memory_bytes - sum(self._shard_bytes.values()) - sum(self._kv_bytes.values())

    def waiting(self) -> int:
        return max(0, self._link.unanswered - 1) if self._link is not None else 0

    async def load(self, spec: ShardSpec, on_progress: Progress) -> ShardLoaded:
        async with self._undone_by(UnloadShard(spec.shard)):
            loaded = (await self._ask(LoadShard(spec), Loaded, on_progress=on_progress)).loaded
        self._forget_caches(spec.shard)
        self._shard_bytes[spec.shard] = loaded.resident_bytes
        return loaded

    async def unload(self, shard: ShardId) -> None:
        await self._ask(UnloadShard(shard), Done)
        self._shard_bytes.pop(shard, None)
        self._forget_caches(shard)

    async def open_cache(self, shard: ShardId, session: SessionId, stage: int, spec: CacheSpec) -> None:
        async with self._undone_by(CloseCache(shard, session, stage)):
            opened = await self._ask(OpenCache(shard, session, stage, spec), CacheOpened)
        self._kv_bytes[shard, session, stage] = opened.kv_bytes
        self._layers_done[session, stage] = 0

    async def step(self, shard: ShardId, frame: Frame) -> StepResult:
        return await self.start_step(shard, frame).result()

    def start_step(self, shard: ShardId, frame: Frame) -> _Stepping:
        key = (frame.header.session, frame.header.stage)
        told = 0

        def advance(done: int, _total: int) -> None:
            nonlocal told
            if key in self._layers_done:
                self._layers_done[key] += done - told
            told = done

        link = self._up()
        call = link.post(Step(shard, frame.header, frame.tokens), frame.body, advance)
        return _Stepping(link, call, partial(advance, shard.range.layers, shard.range.layers))

    async def close_cache(self, shard: ShardId, session: SessionId, stage: int) -> None:
        # Before the answer: the worker closes it whether or not somebody is left to hear so.
        self._kv_bytes.pop((shard, session, stage), None)
        self._layers_done.pop((session, stage), None)
        await self._ask(CloseCache(shard, session, stage), Done)

    def work(self, session: SessionId, stage: int) -> int:
        return self._layers_done.get((session, stage), 0)

    async def wait_died(self) -> None:
        await self._died.wait()

    # Inside ----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[WorkerLink]:
        """A process that is up; told to end on the way out, and killed if it does not. Raises `LocalFault`."""
        process = await self._spawn()
        self.pid = process.pid
        link = WorkerLink(process.connection)
        try:
            async with peer_nursery() as nursery:
                nursery.start_soon(link.run)
                if not await link.comes_up():
                    raise LocalFault("the worker process did not come up: its own output above says why")
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

    def _forget_caches(self, shard: ShardId) -> None:
        for key in [key for key in self._kv_bytes if key[0] == shard]:
            del self._kv_bytes[key]
            self._layers_done.pop(key[1:], None)

    def _lose_everything(self) -> None:
        self._link = None
        self._shard_bytes.clear()
        self._kv_bytes.clear()
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
