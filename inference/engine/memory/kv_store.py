"""The caches of a shard behind one interface: slots that each session has to itself, or pages of a pool that all share.

processor    `SlotStore`: a session's rows lie one after the other, and the system hands out memory as they are written
accelerator  `PagedStore` (inference/engine/memory/pages.py): one call of attention for all sessions of a step

Both keep rows in the form that the worker was given (inference/model/kv_form.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor

from inference.engine.memory.kv_cache import KvCache
from inference.engine.memory.kv_layer import KvBench
from inference.model.blocks import LayerKv, StepKv
from inference.model.config import ModelConfig
from inference.model.kv_form import KvForm
from inference.model.step_plan import Span, make_spans


class SessionKv(Protocol):
    """The rows of one session at one shard. `rows` counts those that are complete in every layer."""

    rows: int
    rows_max: int

    def truncate(self, rows: int) -> None:
        """Those from `rows` on are no more."""

    def copied(self, start: int, end: int) -> Tensor:
        """Those rows as they are now, [layers, 2, kv_heads, rows, width]."""

    def append(self, copied: Tensor) -> None:
        """Rows that another cache has copied, behind those that are here."""

    def close(self) -> None:
        """Give back its memory; it is of no use afterwards."""


@dataclass(frozen=True, slots=True)
class KvPart:
    """A session with the rows that a step brings: `rows` of them from `position` on."""

    kv: SessionKv
    position: int
    rows: int


LayerKvs = Callable[[int], Sequence[LayerKv] | StepKv]
"""What `DecoderLayer.forward` takes for the layer of that number in the range."""


class KvStore(Protocol):
    """The caches of one shard, whose rows lie in `form`."""

    @property
    def form(self) -> KvForm: ...

    def open(self, rows_max: int) -> SessionKv:
        """Raises `MemoryError` or `RuntimeError`, as torch's allocators do, if there is no memory for so many rows."""

    def spans(self, bounds: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
        """The spans in which the rows of a segment attend, none where all of a step attend together."""

    def step(self, parts: Sequence[KvPart]) -> LayerKvs:
        """For one step, whose rows are written by it."""


class SlotStore:
    """Implements `KvStore` for the processor."""

    def __init__(self, config: ModelConfig, layers: int, form: KvForm) -> None:
        self._config = config
        self._layers = layers
        self._bench = KvBench(form, config.kv_heads, config.head_dim) if form.is_int8 else None
        self.form: Final = form

    def open(self, rows_max: int) -> KvCache:
        return KvCache(self._config, self._layers, rows_max, self.form, self._bench)

    def spans(self, bounds: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
        return make_spans(self._config, bounds, self.form.dtype)

    def step(self, parts: Sequence[KvPart]) -> LayerKvs:
        layers = [_slots(part.kv).layers for part in parts]
        return lambda index: [each[index] for each in layers]


def _slots(kv: SessionKv) -> KvCache:
    assert isinstance(kv, KvCache)
    return kv
