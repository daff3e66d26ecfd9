"""The torch side of the worker process: loads shard engines within the memory that the operator gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import torch

from inference.engine.batching.cost_curve import ROWS_TRIED, BatchRows, batch_rows, measure_costs
from inference.engine.device import HOST, Device
from inference.engine.engine import ShardEngine
from inference.engine.kernels.quantised_folder import QuantisedFolder
from inference.engine.memory.kv_cache import KvBudget, cache_bytes
from inference.engine.numerics.measure import measure_layer
from inference.engine.numerics.selftest import Arithmetic
from inference.engine.parallel.ranks import ALONE, Ranks
from inference.engine.parallel.slices import ranks_bytes
from inference.engine.worker.server import CacheKey, StepOutput
from inference.engine.worker.settings import WorkerSettings
from inference.model.config_json import parse_config
from protocols import limits
from protocols.errors import Overloaded, WeftError
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardLoaded, ShardSpec
from protocols.tensor import Frame


class TorchEngine:
    """Implements `worker_server.Engine`."""

    def __init__(self, engine: ShardEngine, budget: KvBudget, batch_rows: BatchRows) -> None:
        self._engine = engine
        self._budget = budget
        self.batch_rows = batch_rows
        config = engine.config
        rows = min(config.context, limits.ROWS_RESERVED_MAX)
        self._planned_bytes = cache_bytes(
            config.kv_bytes_per_row(engine.range, engine.dtype, budget.kv), rows
        )
        # What weights take is not there for caches.
        budget.bytes_max -= engine.resident_bytes
        budget.planned_bytes += self._planned_bytes
        budget.trim()

    @property
    def loaded(self) -> ShardLoaded:
        arithmetic = self._engine.arithmetic
        return ShardLoaded(self._engine.resident_bytes, arithmetic.numerics_class, arithmetic.is_exact)

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        return self._engine.open_cache(key, spec)

    def rows(self, key: CacheKey) -> int:
        return self._engine.rows(key)

    def close_cache(self, key: CacheKey) -> None:
        self._engine.close_cache(key)

    def close(self) -> None:
        self._engine.close()
        self._budget.bytes_max += self._engine.resident_bytes
        self._budget.planned_bytes -= self._planned_bytes

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> Sequence[StepOutput | WeftError]:
        with _full_card_told():  # caches are as they were then, for a row counts once its step is over
            return self._engine.step_together(work, on_layer)


class TorchEngines:
    """Implements `worker_server.Engines`."""

    def __init__(
        self, settings: WorkerSettings, monotonic: Callable[[], float], device: Device = HOST
    ) -> None:
        """`device` is what `settings` came to, and their `memory_bytes` are of that."""
        torch.set_num_threads(settings.threads_each)
        self._kept = QuantisedFolder(Path(settings.quantised)) if settings.quantised else None
        self._monotonic = monotonic
        self._device = device
        self._budget = KvBudget(settings.memory_bytes, prefix_share=settings.prefix_share, kv=settings.kv)

    @property
    def prefix_bytes(self) -> int:
        return self._budget.prefixes.size_bytes

    def drop_prefixes(self) -> None:
        self._budget.prefixes.clear()

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> TorchEngine:
        with _full_card_told():
            engine = self._read(spec, on_progress)
            rows = self._batch_rows(engine)
        return TorchEngine(engine, self._budget, rows)

    def _read(
        self,
        spec: ShardSpec,
        on_progress: Callable[[int, int], None],
        ranks: Ranks = ALONE,
        arithmetic: Arithmetic | None = None,
    ) -> ShardEngine:
        config, layers = parse_config(spec.config), spec.shard.range
        config.check_range(layers)
        needed_bytes = ranks_bytes(config, layers, spec.dtype, ranks.own.of)
        left_bytes = self._budget.bytes_max - self._budget.reserved_bytes
        if needed_bytes > left_bytes:
            raise Overloaded(
                f"layers {layers} take {needed_bytes} bytes, and {left_bytes} are left of the worker's memory"
            )
        self._budget.prefixes.shrink(left_bytes - needed_bytes)
        return ShardEngine(
            config,
            layers,
            spec.dtype,
            spec.numerics,
            spec.tensors,
            self._budget,
            on_progress,
            spec.tokenizer,
            self._kept,
            self._device,
            ranks,
            arithmetic,
        )

    def _batch_rows(self, engine: ShardEngine) -> BatchRows:
        """Tried on one layer after the other, so that none lies in the processor's cache from the step before."""
        steps = {rows: engine.trial(rows) for rows in ROWS_TRIED}
        layers = cycle(range(engine.range.layers))
        return batch_rows(measure_costs(lambda rows: steps[rows](next(layers)), self._monotonic))

    def measure_layer(self, shape: LayerShape) -> float:
        with _full_card_told():
            return measure_layer(shape, self._monotonic, self._device, self._budget.kv)


@contextmanager
def _full_card_told() -> Iterator[None]:
    """As the processor's own allocator tells it: others of the machine may take a card's memory at any time."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
