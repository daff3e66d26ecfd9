"""Keys and values of one session at one shard, and the memory that all of them together may take.

All rows of a session are reserved when it opens: the budget is then a promise, and where a row lies never depends on how
the cache came to its length. The system hands out the pages only as rows are written.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from inference.engine.memory.kv_layer import KvBench, LayerKv, RoundedLayerKv
from inference.engine.memory.prefixes import Prefixes
from inference.model.config import ModelConfig
from inference.model.kv_form import KvForm
from inference.model.paged import PAGE_ROWS
from protocols import limits
from protocols.errors import Overloaded
from protocols.ids import PeerId, SessionId

_CAPACITY_STEP_ROWS: Final = PAGE_ROWS  # whole pages; and in slots every head starts on a cache line


@dataclass(slots=True)
class KvBudget:
    """Bytes of keys and values that may be reserved at once, over all shards of a worker.

    A session may have `KV_SESSION_SHARE` of them and all sessions of a peer `KV_PEER_SHARE`; and in any case `planned_bytes`,
    which is what one session takes of the length that every range was planned with. What is kept of sessions in `prefixes` has
    `prefix_share` of them at most, and room only as long as no session wants it. `kv` is what all of them are kept in, one of
    `KV_KINDS`.
    """

    bytes_max: int
    planned_bytes: int = 0
    reserved_bytes: int = 0
    prefix_share: float = limits.KV_PREFIX_SHARE
    kv: str = "model"
    prefixes: Prefixes[Tensor] = field(default_factory=Prefixes)
    _sessions: Counter[SessionId] = field(default_factory=Counter)
    _peers: Counter[PeerId] = field(default_factory=Counter)

    def reserve(self, size_bytes: int, session: SessionId, peer: PeerId) -> None:
        """Raises `Overloaded` if that much is not left, or more than the session or the peer may have."""
        self._check(size_bytes, self.reserved_bytes, self.bytes_max, "all sessions")
        self._check(size_bytes, self._sessions[session], self._quota(limits.KV_SESSION_SHARE), "one session")
        self._check(
            size_bytes, self._peers[peer], self._quota(limits.KV_PEER_SHARE), "the sessions of one peer"
        )
        self._add(size_bytes, session, peer)
        self.trim()

    def release(self, size_bytes: int, session: SessionId, peer: PeerId) -> None:
        self._add(-size_bytes, session, peer)

    @property
    def prefix_bytes_max(self) -> int:
        """What may be kept of sessions now."""
        return max(0, min(int(self.prefix_share * self.bytes_max), self.bytes_max - self.reserved_bytes))

    def trim(self) -> None:
        """Let go of what is kept beyond that."""
        self.prefixes.shrink(self.prefix_bytes_max)

    @property
    def holders(self) -> int:
        """How many sessions hold anything."""
        return len(self._sessions)

    def _quota(self, share: float) -> int:
        return max(int(share * self.bytes_max), self.planned_bytes)

    @staticmethod
    def _check(size_bytes: int, reserved_bytes: int, bytes_max: int, whose: str) -> None:
        if reserved_bytes + size_bytes > bytes_max:
            left = max(0, bytes_max - reserved_bytes)
            raise Overloaded(f"a cache of {size_bytes} bytes does not fit into the {left} left for {whose}")

    def _add(self, size_bytes: int, session: SessionId, peer: PeerId) -> None:
        self.reserved_bytes += size_bytes
        self._sessions[session] += size_bytes
        self._peers[peer] += size_bytes
        assert min(self.reserved_bytes, self._sessions[session], self._peers[peer]) >= 0
        self._sessions += Counter()  # drops those that hold nothing
        self._peers += Counter()


class KvCache:
    """Implements `SessionKv` (inference/engine/memory/kv_store.py)."""

    def __init__(
        self, config: ModelConfig, layers: int, rows_max: int, form: KvForm, bench: KvBench | None = None
    ) -> None:
        """With a `bench` for a form that attention does not take."""
        heads, capacity, width = config.kv_heads, _capacity(rows_max), form.width(config.head_dim)
        if bench is None:
            self.layers = tuple(LayerKv(heads, capacity, width, form.dtype) for _ in range(layers))
        else:
            self.layers = tuple(RoundedLayerKv(heads, capacity, width, form, bench) for _ in range(layers))
            bench.open(capacity)
        self._bench = bench
        self.rows = 0
        self.rows_max = rows_max

    def truncate(self, rows: int) -> None:
        self.rows = rows

    def close(self) -> None:
        """Its memory goes with it."""
        self.layers = ()
        if self._bench is not None:
            self._bench.close()

    def copied(self, start: int, end: int) -> Tensor:
        """Those rows as they are now, [layers, 2, kv_heads, rows, width]."""
        return torch.stack(
            [torch.stack((layer.keys[:, start:end], layer.values[:, start:end])) for layer in self.layers]
        )

    def append(self, copied: Tensor) -> None:
        """Rows that another cache has copied, behind those that are here."""
        end = self.rows + copied.shape[3]
        for layer, (keys, values) in zip(self.layers, copied, strict=True):
            layer.keys[:, self.rows : end] = keys
            layer.values[:, self.rows : end] = values
        self.rows = end


def cache_bytes(bytes_per_row: int, rows_max: int) -> int:
    """What a cache of that many rows reserves."""
    return bytes_per_row * _capacity(rows_max)


def _capacity(rows_max: int) -> int:
    return -(-rows_max // _CAPACITY_STEP_ROWS) * _CAPACITY_STEP_ROWS
