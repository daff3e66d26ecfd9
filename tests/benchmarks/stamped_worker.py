"""The torch worker of a node, which in addition notes when each step began and ended.

    python -m tests.benchmarks.stamped_worker THREADS MEMORY_BYTES FD

A step begins when its request has been read and decoded, and ends before its answer is encoded, so that what lies between two
workers' steps is all transport. Each session's stamps are one line of the file named in the environment.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from inference.engine.batching.cost_curve import BatchRows
from inference.engine.worker import process as worker
from inference.engine.worker.server import CacheKey, Engine, Engines, StepOutput
from inference.engine.worker.settings import WorkerSettings
from protocols.errors import WeftError
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardLoaded, ShardSpec
from protocols.tensor import Frame

STAMPS_VARIABLE: Final = "BENCH_STAMPS_FILE"


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """On the monotonic clock, which all processes of a machine share."""

    position: int
    began_s: float
    ended_s: float


class StampedEngine:
    """Implements `worker_server.Engine`."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path
        self._stamps: dict[CacheKey, list[Stamp]] = {}

    @property
    def loaded(self) -> ShardLoaded:
        return self._engine.loaded

    @property
    def batch_rows(self) -> BatchRows:
        return self._engine.batch_rows

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        self._stamps[key] = []
        return self._engine.open_cache(key, spec)

    def rows(self, key: CacheKey) -> int:
        return self._engine.rows(key)

    def close_cache(self, key: CacheKey) -> None:
        self._engine.close_cache(key)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(self._stamps.pop(key)) + b"\n")

    def close(self) -> None:
        self._engine.close()

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> Sequence[StepOutput | WeftError]:
        began_s = time.monotonic()
        outcomes = self._engine.step_together(work, on_layer)
        for key, frame in work:
            self._stamps[key].append(Stamp(frame.header.position, began_s, time.monotonic()))
        return outcomes


class StampedEngines:
    """Implements `worker_server.Engines`."""

    def __init__(self, engines: Engines, path: Path) -> None:
        self._engines = engines
        self._path = path

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> StampedEngine:
        return StampedEngine(self._engines.load(spec, on_progress), self._path)

    @property
    def prefix_bytes(self) -> int:
        return self._engines.prefix_bytes

    def drop_prefixes(self) -> None:
        self._engines.drop_prefixes()

    def measure_layer(self, shape: LayerShape) -> float:
        return self._engines.measure_layer(shape)


def main(arguments: list[str]) -> None:
    threads, memory_bytes, descriptor = map(int, arguments)
    worker.prepare(threads)
    from inference.engine.worker.torch_engines import TorchEngines

    engines = TorchEngines(WorkerSettings(threads, memory_bytes), time.perf_counter)
    worker.serve(descriptor, StampedEngines(engines, Path(os.environ[STAMPS_VARIABLE])))


if __name__ == "__main__":
    main(sys.argv[1:])
