"""Keys and values of one session at one shard, and the memory that all of them together may take.

All rows of a session are reserved when it opens: the budget is then a promise, and where a row lies never depends on how
the cache came to its length. The system hands out the pages only as rows are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.model.config import ModelConfig
from protocols.errors import Overloaded

_CAPACITY_STEP_ROWS: Final = 64  # so that every head starts on a cache line


@dataclass(slots=True)
class KvBudget:
    """Bytes of keys and values that may be reserved at once, over all shards of a worker."""

    bytes_max: int
    reserved_bytes: int = 0

    def reserve(self, size_bytes: int) -> None:
        """Raises `Overloaded` if that much is not left."""
        if self.reserved_bytes + size_bytes > self.bytes_max:
            left = self.bytes_max - self.reserved_bytes
            raise Overloaded(f"a cache of {size_bytes} bytes does not fit into the {left} left")
        self.reserved_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        self.reserved_bytes -= size_bytes
        assert self.reserved_bytes >= 0


class LayerKv:
    """One layer's rows, [kv_heads, capacity, head_dim], written in place."""

    def __init__(self, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype) -> None:
        self.keys = torch.empty(kv_heads, capacity, head_dim, dtype=dtype)
        self.values = torch.empty(kv_heads, capacity, head_dim, dtype=dtype)

    def write(self, position: int, keys: Tensor, values: Tensor) -> None:
        end = position + len(keys)
        self.keys[:, position:end] = keys.transpose(0, 1)
        self.values[:, position:end] = values.transpose(0, 1)

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        return self.keys[None, :, :end], self.values[None, :, :end]


class KvCache:
    """The rows of one session at one shard. `rows` counts those that are complete in every layer."""

    def __init__(self, config: ModelConfig, layers: int, rows_max: int, dtype: torch.dtype) -> None:
        capacity = _capacity(rows_max)
        self.layers = tuple(LayerKv(config.kv_heads, capacity, config.head_dim, dtype) for _ in range(layers))
        self.rows = 0
        self.rows_max = rows_max


def cache_bytes(bytes_per_row: int, rows_max: int) -> int:
    """What a cache of that many rows reserves."""
    return bytes_per_row * _capacity(rows_max)


def _capacity(rows_max: int) -> int:
    return -(-rows_max // _CAPACITY_STEP_ROWS) * _CAPACITY_STEP_ROWS
