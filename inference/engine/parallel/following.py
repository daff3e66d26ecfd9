"""The shards of a rank that does not lead, and what it does with orders."""

from __future__ import annotations

import time
from collections.abc import Callable

from inference.engine.batching.cost_curve import UNMEASURED
from inference.engine.device import HOST, Device
from inference.engine.engine import ShardEngine
from inference.engine.kernels.linear import Kernel
from inference.engine.numerics.exactness import RowPlan
from inference.engine.numerics.selftest import Arithmetic
from inference.engine.parallel.orders import (
    Answer,
    Begin,
    BeginTrial,
    Close,
    Forget,
    Load,
    Open,
    Order,
    RankLost,
    Read,
    Unload,
)
from inference.engine.parallel.ranks import Exchange, Group
from inference.engine.parallel.slices import Slice
from inference.engine.worker.settings import WorkerSettings
from inference.engine.worker.torch_engines import TorchEngine, TorchEngines
from inference.engine.worker.wire import Failed
from protocols.errors import WeftError


class FollowingEngines(TorchEngines):
    """Its memory is that of all ranks together, as the leader counts it."""

    def __init__(
        self, own: Slice, exchange: Exchange, settings: WorkerSettings, device: Device = HOST
    ) -> None:
        super().__init__(settings, time.perf_counter, device)
        self._group = Group(own, exchange)
        self._shards: dict[int, tuple[ShardEngine, TorchEngine]] = {}
        self._trials: dict[tuple[int, int], Callable[[int], None]] = {}

    def obey(self, order: Order, on_progress: Callable[[int, int], None]) -> Answer | None:
        """What the leader waits to hear, if anything. Raises `RankLost` if this rank is not in step."""
        if not isinstance(order, BeginTrial):
            self._trials.clear()
        match order:
            case Load():
                return self._load(order, on_progress)
            case Unload(number):
                if number in self._shards:  # it may be the one that could not load it
                    self._shards.pop(number)[1].close()
            case Open():
                self._open(order)
            case Close(number, key):
                self._shards[number][0].close_cache(key)
            case Begin(number):
                self._shards[number][0].follow(order.frames())
            case BeginTrial(number, rows, layer):
                if (number, rows) not in self._trials:
                    self._trials[number, rows] = self._shards[number][0].trial(rows)
                self._trials[number, rows](layer)
            case Forget():
                self.drop_prefixes()
        return None

    def _load(self, order: Load, on_progress: Callable[[int, int], None]) -> Answer:
        rows, kernel = RowPlan(order.row_sizes), Kernel(order.kernel)
        arithmetic = Arithmetic(kernel, rows, order.is_exact, order.numerics_class)
        try:
            shard = self._read(order.spec, on_progress, self._group, arithmetic)
        except WeftError as error:
            return Failed(type(error).__name__, str(error))
        self._shards[order.number] = shard, TorchEngine(shard, self._budget, UNMEASURED)
        return Read()

    def _open(self, order: Open) -> None:
        shard, _ = self._shards[order.number]
        rows: int | None = None
        try:
            shard.open_cache(order.key, order.spec)
            rows = shard.rows(order.key)
        except WeftError as error:
            if order.rows is not None:
                raise RankLost(f"it cannot open what the first rank has opened: {error}") from error
        if order.rows is None:
            shard.close_cache(order.key)
        elif rows != order.rows:
            raise RankLost(f"it has {rows} rows of a prompt of which the first rank has {order.rows}")
