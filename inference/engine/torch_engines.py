"""The torch side of the worker process: loads shard engines within the memory that the operator gave."""

from __future__ import annotations

from collections.abc import Callable

import torch

from inference.engine.engine import ShardEngine
from inference.engine.kv_cache import KvBudget
from inference.engine.measure import measure_layer
from inference.engine.worker_server import CacheKey
from inference.model.config import parse_config
from protocols.errors import Overloaded
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardLoaded, ShardSpec
from protocols.tensor import Frame


class TorchEngine:
    """Implements `worker_server.Engine`."""

    def __init__(self, engine: ShardEngine, budget: KvBudget) -> None:
        self._engine = engine
        self._budget = budget
        # What weights take is not there for caches.
        budget.bytes_max -= engine.resident_bytes

    @property
    def loaded(self) -> ShardLoaded:
        arithmetic = self._engine.arithmetic
        return ShardLoaded(self._engine.resident_bytes, arithmetic.numerics_class, arithmetic.is_exact)

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        before = self._budget.reserved_bytes
        self._engine.open_cache(key, spec)
        return self._budget.reserved_bytes - before

    def close_cache(self, key: CacheKey) -> None:
        self._engine.close_cache(key)

    def close(self) -> None:
        self._engine.close()
        self._budget.bytes_max += self._engine.resident_bytes

    def step(
        self, key: CacheKey, frame: Frame, on_layer: Callable[[], None]
    ) -> tuple[bytes | memoryview, int | None]:
        return self._engine.step(key, frame, on_layer)


class TorchEngines:
    """Implements `worker_server.Engines`."""

    def __init__(self, threads: int, memory_bytes: int, monotonic: Callable[[], float]) -> None:
        torch.set_num_threads(threads)
        self._monotonic = monotonic
        self._budget = KvBudget(memory_bytes)

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> TorchEngine:
        config, layers = parse_config(spec.config), spec.shard.range
        config.check_range(layers)
        needed_bytes = config.range_bytes(layers, spec.dtype)
        left_bytes = self._budget.bytes_max - self._budget.reserved_bytes
        if needed_bytes > left_bytes:
            raise Overloaded(
                f"layers {layers} take {needed_bytes} bytes, and {left_bytes} are left of the worker's memory"
            )
        engine = ShardEngine(
            config, layers, spec.dtype, spec.numerics, spec.tensors, self._budget, on_progress
        )
        return TorchEngine(engine, self._budget)

    def measure_layer(self, shape: LayerShape) -> float:
        return measure_layer(shape, self._monotonic)
