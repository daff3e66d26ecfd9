"""A worker that computes as it should and answers something else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec.structs import replace

from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import (
    CacheKey,
    CacheSpec,
    ShardId,
    ShardLoaded,
    ShardSpec,
    ShardWorker,
    Stepping,
    StepResult,
    WorkerMemory,
)
from protocols.tensor import Frame

EVERY: Final = 3  # one frame in so many is altered: a liar that always lies is easy to find


class Manners(Protocol):
    """What a lying worker asks of the conduct of its machine."""

    @property
    def alters(self) -> bool: ...
    @property
    def praises(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Altered:
    """Implements `protocols.seams.Stepping`."""

    honest: Stepping
    frame: Frame

    async def result(self) -> StepResult:
        return altered(await self.honest.result(), self.frame)


def altered(result: StepResult, frame: Frame) -> StepResult:
    """The numbers of the first row in another order, so that any arithmetic takes them; another token."""
    token = None if result.token is None else result.token ^ 1
    if not result.body:
        return replace(result, token=token)
    body, item_bytes = bytes(result.body), frame.header.dtype.item_bytes
    row_bytes = len(body) // frame.header.rows
    first = body[item_bytes:row_bytes] + body[:item_bytes]
    return replace(result, body=first + body[row_bytes:], token=token)


class LyingWorker:
    """Implements `protocols.seams.ShardWorker`."""

    def __init__(self, worker: ShardWorker, conduct: Manners) -> None:
        self._worker = worker
        self._conduct = conduct

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    async def measure_layer(self, shape: LayerShape) -> float:
        return await self._worker.measure_layer(shape)

    def free_bytes(self) -> int:
        return self._worker.free_bytes()

    def memory(self) -> WorkerMemory:
        return self._worker.memory()

    async def caches(self) -> tuple[CacheKey, ...]:
        return await self._worker.caches()

    async def limit_rows(self, rows: int | None) -> None:
        await self._worker.limit_rows(rows)

    async def drop_prefixes(self) -> None:
        await self._worker.drop_prefixes()

    def waiting(self) -> int:
        return 0 if self._conduct.praises else self._worker.waiting()

    async def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> ShardLoaded:
        return await self._worker.load(spec, on_progress)

    async def unload(self, shard: ShardId) -> None:
        await self._worker.unload(shard)

    async def open_cache(self, shard: ShardId, session: SessionId, stage: int, spec: CacheSpec) -> int:
        return await self._worker.open_cache(shard, session, stage, spec)

    async def step(self, shard: ShardId, frame: Frame) -> StepResult:
        return await self.start_step(shard, frame).result()

    def start_step(self, shard: ShardId, frame: Frame, on_end: Callable[[], None] = lambda: None) -> Stepping:
        stepping = self._worker.start_step(shard, frame, on_end)
        is_turn = frame.header.position % EVERY == 0
        return _Altered(stepping, frame) if self._conduct.alters and is_turn else stepping

    async def close_cache(self, shard: ShardId, session: SessionId, stage: int) -> None:
        await self._worker.close_cache(shard, session, stage)

    def work(self, stages: Iterable[tuple[SessionId, int]]) -> int:
        return self._worker.work(stages)

    async def wait_died(self) -> None:
        await self._worker.wait_died()
