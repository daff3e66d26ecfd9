"""One layer's rows of a session: as they lie, and as attention sees them.

Where rows lie in 8 bit, what a step sees of them is read into a bench beside the caches, one layer of one session at a time. That is
memory to compute with, as activations are: no budget counts it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.model.kv_form import KvForm


class LayerKv:
    """One layer's rows, [kv_heads, capacity, width], written in place."""

    def __init__(self, kv_heads: int, capacity: int, width: int, dtype: torch.dtype) -> None:
        self.keys = torch.empty(kv_heads, capacity, width, dtype=dtype)
        self.values = torch.empty(kv_heads, capacity, width, dtype=dtype)

    def write(self, position: int, keys: Tensor, values: Tensor) -> None:
        end = position + len(keys)
        self.keys[:, position:end] = keys.transpose(0, 1)
        self.values[:, position:end] = values.transpose(0, 1)

    def read(self, end: int, first: int = 0) -> tuple[Tensor, Tensor]:
        return self.keys[None, :, first:end], self.values[None, :, first:end]


class KvBench:
    """Keys and values of one layer of one session as they are computed with; as long as a session is open, as large as the
    longest that was open with it.

    The spans of a step see one more row each, or a block more: what one has read the next need not read again. Rows lie as in a
    cache of their own, so that attention finds them on the same cache lines whatever was read before.
    """

    def __init__(self, form: KvForm, kv_heads: int, head_dim: int) -> None:
        self._form = form
        self._kv_heads = kv_heads
        self._head_dim = head_dim
        self._items = torch.empty(2, 0, dtype=form.dtype)
        self._sessions = 0
        self._first = self._end = 0  # rows that are here

    def open(self, capacity: int) -> None:
        """For one more session. Raises what torch's allocator raises."""
        count = self._kv_heads * capacity * self._head_dim
        if count > self._items.shape[1]:
            self._items = torch.empty(2, count, dtype=self._form.dtype)
        self._sessions += 1

    def close(self) -> None:
        self._sessions -= 1
        if not self._sessions:
            self._items = self._items.new_empty(2, 0)

    def clear(self) -> None:
        """Other rows are coming."""
        self._first = self._end = 0

    def read(self, stored: tuple[Tensor, Tensor], first: int, end: int) -> tuple[Tensor, Tensor]:
        """Those from `first` to `end` - 1 of [kv_heads, capacity, width], each [1, kv_heads, end - first, head_dim]."""
        if not self._first <= first <= self._end:
            self._first = self._end = first
        whole = []
        for items, rows in zip(self._items, stored, strict=True):
            shape = (self._kv_heads, rows.shape[1], self._head_dim)
            whole.append(items[: shape[0] * shape[1] * shape[2]].view(shape))
            if end > self._end:
                self._form.read(rows[:, self._end : end], whole[-1][:, self._end : end])
        self._end = max(self._end, end)
        return whole[0][None, :, first:end], whole[1][None, :, first:end]


class RoundedLayerKv(LayerKv):
    """Of a form that attention does not take: what it sees is read into `bench`, which all layers of a shard have in turns."""

    def __init__(self, kv_heads: int, capacity: int, width: int, form: KvForm, bench: KvBench) -> None:
        super().__init__(kv_heads, capacity, width, form.stored_dtype)
        self._form = form
        self._bench = bench

    def write(self, position: int, keys: Tensor, values: Tensor) -> None:
        super().write(position, *self._form.stored(keys, values))
        self._bench.clear()

    def read(self, end: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """After a `write` of the same step, before that of any other layer or session."""
        return self._bench.read((self.keys, self.values), first, end)
