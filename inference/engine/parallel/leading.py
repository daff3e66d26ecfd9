"""The shards of the rank that leads: the worker process as it is alone, that tells the others what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from msgspec import structs

from inference.engine.batching.cost_curve import BatchRows
from inference.engine.device import HOST, Device
from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.numerics.selftest import Arithmetic, find_arithmetic
from inference.engine.parallel.followers import Followers
from inference.engine.parallel.orders import (
    Begin,
    BeginTrial,
    CacheKey,
    Close,
    Forget,
    Load,
    Open,
    RankLost,
    Unload,
)
from inference.engine.parallel.ranks import Exchange, Group
from inference.engine.parallel.slices import Slice, part_config
from inference.engine.worker.server import StepOutput
from inference.engine.worker.settings import WorkerSettings
from inference.engine.worker.torch_engines import TorchEngine, TorchEngines
from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from protocols.errors import Overloaded, WeftError
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardSpec
from protocols.session import Sampling
from protocols.tensor import Frame


class _Leading(Group):
    """The group as shard `number` of the leader sees it."""

    def __init__(self, own: Slice, exchange: Exchange, followers: Followers, number: int) -> None:
        super().__init__(own, exchange)
        self._followers = followers
        self._number = number

    def begin(self, work: Mapping[CacheKey, Frame]) -> None:
        headers = tuple((key, frame.header, tuple(frame.tokens)) for key, frame in work.items())
        self._followers.tell(Begin(self._number, headers))

    def begin_trial(self, rows: int, layer: int) -> None:
        self._followers.tell(BeginTrial(self._number, rows, layer))


class LeadingEngine(TorchEngine):
    """Whatever is done to it is done by the others too."""

    def __init__(
        self, engine: ShardEngine, budget: KvBudget, batch_rows: BatchRows, followers: Followers, number: int
    ) -> None:
        super().__init__(engine, budget, batch_rows)
        self._followers = followers
        self._number = number

    def open_cache(self, key: CacheKey, spec: CacheSpec) -> int:
        plain = replace(spec, sampling=None if spec.sampling is None else Sampling(), stop_ids=())
        try:
            size_bytes = super().open_cache(key, spec)
        except Overloaded:
            # By then prompts have been looked for, which changes the order in which they are let go of.
            self._followers.tell(Open(self._number, key, plain, None))
            raise
        self._followers.tell(Open(self._number, key, plain, self.rows(key)))
        return size_bytes

    def close_cache(self, key: CacheKey) -> None:
        super().close_cache(key)
        self._followers.tell(Close(self._number, key))

    def close(self) -> None:
        super().close()
        self._followers.tell(Unload(self._number))

    def step_together(
        self, work: Sequence[tuple[CacheKey, Frame]], on_layer: Callable[[], None]
    ) -> Sequence[StepOutput | WeftError]:
        try:
            return super().step_together(work, on_layer)
        except MemoryError as error:  # the others are in the middle of it, and can't be called back
            raise RankLost("there was no memory for a step") from error


class LeadingEngines(TorchEngines):
    """Its memory is for all ranks together."""

    def __init__(
        self,
        followers: Followers,
        own: Slice,
        exchange: Exchange,
        settings: WorkerSettings,
        monotonic: Callable[[], float],
        device: Device = HOST,
    ) -> None:
        super().__init__(settings, monotonic, device)
        self._followers = followers
        self._own = own
        self._exchange = exchange
        self._numbers = count()

    def drop_prefixes(self) -> None:
        super().drop_prefixes()
        self._followers.tell(Forget())

    def measure_layer(self, shape: LayerShape) -> float:
        """Of a slice of it, without what its two sums take: little beside weights that are worth slicing."""
        of = self._own.of
        if any(size % of for size in (shape.heads, shape.kv_heads, shape.ffn)):
            return super().measure_layer(shape)  # of a model that it will refuse to load, and say why
        part = structs.replace(
            shape, heads=shape.heads // of, kv_heads=shape.kv_heads // of, ffn=shape.ffn // of
        )
        return super().measure_layer(part)

    def load(self, spec: ShardSpec, on_progress: Callable[[int, int], None]) -> LeadingEngine:
        config = parse_config(spec.config)
        config.check_range(spec.shard.range)
        arithmetic = sliced_arithmetic(
            config, spec.dtype, spec.numerics, self._own.of, self._device, self._budget.kv
        )
        number = next(self._numbers)
        self._followers.tell(
            Load(
                number,
                replace(spec, tokenizer=""),
                arithmetic.kernel.value,
                arithmetic.rows.sizes,
                arithmetic.is_exact,
                arithmetic.numerics_class,
            )
        )
        ranks = _Leading(self._own, self._exchange, self._followers, number)
        engine, fault = self._read_or_fault(spec, on_progress, ranks, arithmetic)
        failures = self._followers.loaded()
        if engine is not None and not failures:
            batch_rows = self._batch_rows(engine)
            return LeadingEngine(engine, self._budget, batch_rows, self._followers, number)
        if engine is not None:
            engine.close()
        self._followers.tell(Unload(number))
        self.drop_prefixes()  # for by now ranks may have let go of other ones
        raise fault or failures[0].as_error()

    def _read_or_fault(
        self,
        spec: ShardSpec,
        on_progress: Callable[[int, int], None],
        ranks: _Leading,
        arithmetic: Arithmetic,
    ) -> tuple[ShardEngine | None, WeftError | MemoryError | None]:
        """What it comes to is for later: the others are reading as well."""
        try:
            return self._read(spec, on_progress, ranks, arithmetic), None
        except (WeftError, MemoryError) as error:
            return None, error


def sliced_arithmetic(
    config: ModelConfig, dtype: str, numerics: str, of: int, device: Device = HOST, kv: str = "model"
) -> Arithmetic:
    """What serves a slice of the model best here; sums of slices round otherwise than wholes, so that their class says how
    many there are. Raises `UserError` if so many cannot share the model."""
    found = find_arithmetic(part_config(config, of), dtype, numerics, device, kv)
    kind, place = found.numerics_class.split("/", 1)
    return replace(found, numerics_class=f"{kind}/{place}/tp{of}", timings=())
