"""Caches in pages of one pool: for accelerators, which gather what all sessions of a step see in one call.

The rule of the file: what is not in use is zero (inference/model/paged.py says why). A session has all its pages from its opening
on, so that the budget is a promise that the device keeps; and when the last session has ended, the pool is gone.

The pool grows when a session opens, to twice its size as long as the budget has the room, one layer after the other: no more than the
keys of one layer lie there twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.engine.device import Device
from inference.engine.memory.kv_store import KvPart, KvStore, SessionKv, SlotStore
from inference.model.config import ModelConfig
from inference.model.kv_form import KvForm
from inference.model.paged import (
    PAGE_ROWS,
    LayerPages,
    PagedLayer,
    PagedStep,
    Stretch,
    make_paged_step,
    slots_of,
)
from inference.model.step_plan import Span


class PagePool:
    """The pages of all sessions of a shard, in every layer."""

    def __init__(self, layers: Sequence[LayerPages]) -> None:
        self.layers: Final = tuple(layers)
        self.pages = 0
        self.moves = 0  # how often it has been given other memory
        self._free: list[int] = []

    @property
    def in_use(self) -> int:
        return self.pages - len(self._free)

    def take(self, count: int, spare_max: int) -> list[int]:
        """Pages of zeros, of a larger pool if it must be: with at most `spare_max` more than are taken. Raises `MemoryError`
        or `RuntimeError` if the device has no memory for it."""
        lacking = count - len(self._free)
        if lacking > 0:
            self._resize(self.pages + lacking + max(0, min(self.pages, spare_max)))
        taken, self._free = self._free[:count], self._free[count:]
        return taken

    def give_back(self, pages: Iterable[int]) -> None:
        """Pages that are zero again."""
        self._free += pages
        if not self.in_use:
            self._free.clear()
            self._resize(0)

    def clear(self, slots: Sequence[int]) -> None:
        for layer in self.layers:
            chosen = torch.tensor(slots).to(layer.keys.device)
            layer.keys.index_fill_(0, chosen, 0)
            layer.values.index_fill_(0, chosen, 0)

    def _resize(self, pages: int) -> None:
        self.moves += 1
        for layer in self.layers:  # one that has grown before memory ran out is as large as it will be
            layer.resize(pages)
        self._free += range(self.pages, pages)
        self.pages = pages


class PagedKv:
    """Implements `SessionKv`."""

    def __init__(self, pool: PagePool, rows_max: int, spare_max: int) -> None:
        self.pages: Final = tuple(pool.take(-(-rows_max // PAGE_ROWS), spare_max))
        self.rows = 0
        self.rows_max = rows_max
        self._pool = pool
        self._written = 0  # rows from here on are zero

    def truncate(self, rows: int) -> None:
        if rows < self._written:
            self._pool.clear(slots_of(self.pages, rows, self._written))
        self.rows = self._written = rows

    def wrote(self, end: int) -> None:
        """Rows up to that one may be written from now on."""
        self._written = max(self._written, end)

    def copied(self, start: int, end: int) -> Tensor:
        slots = self._slots(start, end)
        return torch.stack(
            [
                torch.stack((layer.keys[slots].transpose(0, 1), layer.values[slots].transpose(0, 1)))
                for layer in self._pool.layers
            ]
        )

    def append(self, copied: Tensor) -> None:
        end = self.rows + copied.shape[3]
        slots = self._slots(self.rows, end)
        for layer, (keys, values) in zip(self._pool.layers, copied, strict=True):
            layer.put(slots, keys.transpose(0, 1), values.transpose(0, 1))
        self.wrote(end)
        self.rows = end

    def close(self) -> None:
        self.truncate(0)
        self._pool.give_back(self.pages)

    def _slots(self, start: int, end: int) -> Tensor:
        return torch.tensor(slots_of(self.pages, start, end)).to(self._pool.layers[0].keys.device)


@dataclass(frozen=True, slots=True)
class PagedLayers:
    """Implements `LayerKvs` for one step."""

    step: PagedStep
    pool: PagePool

    def __call__(self, index: int) -> PagedLayer:
        return PagedLayer(self.step, self.pool.layers[index])


class PagedStore:
    """Implements `KvStore`. `room_bytes` says what the budget has left beside all that is reserved."""

    def __init__(
        self,
        config: ModelConfig,
        layers: int,
        form: KvForm,
        device: Device,
        room_bytes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._config = config
        self._device = device
        self._room_bytes = room_bytes
        head_bytes = form.width(config.head_dim) * form.stored_dtype.itemsize
        self._page_bytes = layers * 2 * PAGE_ROWS * config.kv_heads * head_bytes
        self.form: Final = form
        self.pool: Final = PagePool(
            [LayerPages(config.kv_heads, config.head_dim, form, device.place) for _ in range(layers)]
        )

    def open(self, rows_max: int) -> PagedKv:
        return PagedKv(self.pool, rows_max, max(0, self._room_bytes()) // self._page_bytes)

    def spans(self, bounds: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
        del bounds  # all rows of a step attend together
        return ()

    def step(self, parts: Sequence[KvPart]) -> PagedLayers:
        stretches = []
        for part in parts:
            kv = _paged(part.kv)
            kv.wrote(part.position + part.rows)
            stretches.append(Stretch(kv.pages, part.position, part.rows))
        step = make_paged_step(self._config, stretches, self.form.dtype, self._device.sent)
        return PagedLayers(step, self.pool)


def make_kv_store(
    config: ModelConfig,
    layers: int,
    form: KvForm,
    device: Device,
    room_bytes: Callable[[], int] = lambda: 0,
) -> KvStore:
    """As the device wants it."""
    if device.is_accelerator:
        return PagedStore(config, layers, form, device, room_bytes)
    return SlotStore(config, layers, form)


def _paged(kv: SessionKv) -> PagedKv:
    assert isinstance(kv, PagedKv)
    return kv
