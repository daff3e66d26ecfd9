"""What the torch process holds, by its own answers: so that nobody has to ask it how much memory is free.

A cache counts with all rows that it reserved; what is written of them is known as well, since the pages of the rest are still
the system's, and are owed by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.seams import CacheKey, CacheUse, ShardId, WorkerMemory


@dataclass(slots=True)
class HeldCache:
    """`rows` is the most that it ever held: a page that was written stays."""

    reserved_bytes: int
    rows_max: int
    rows: int = 0

    @property
    def used_bytes(self) -> int:
        return self.reserved_bytes * self.rows // self.rows_max


class WorkerBooks:
    """Of one process at a time, which may use `budget_bytes`."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.device = "cpu"  # whose memory that is
        self._shards: dict[ShardId, int] = {}
        self._caches: dict[CacheKey, HeldCache] = {}
        self.prefix_bytes = 0  # kept for later sessions, and free for whoever wants it

    # What there is ---------------------------------------------------------------------------------------------------

    @property
    def free_bytes(self) -> int:
        reserved_bytes = sum(cache.reserved_bytes for cache in self._caches.values())
        return self.budget_bytes - sum(self._shards.values()) - reserved_bytes

    @property
    def promised_bytes(self) -> int:
        """Of rows that are reserved and were never written."""
        return sum(cache.reserved_bytes - cache.used_bytes for cache in self._caches.values())

    def memory(self) -> WorkerMemory:
        uses = (CacheUse(*key, cache.reserved_bytes, cache.used_bytes) for key, cache in self._caches.items())
        return WorkerMemory(
            self.budget_bytes, dict(self._shards), tuple(uses), self.prefix_bytes, self.device
        )

    # What happens ----------------------------------------------------------------------------------------------------

    def came_up(self, device: str, budget_bytes: int) -> None:
        """A process that computes there; with a budget of 0 it has the one that it was told."""
        self.device = device
        self.budget_bytes = budget_bytes or self.budget_bytes

    def loaded(self, shard: ShardId, resident_bytes: int) -> None:
        self._shards[shard] = resident_bytes

    def unloaded(self, shard: ShardId) -> None:
        self._shards.pop(shard, None)

    def opened(self, key: CacheKey, reserved_bytes: int, rows_max: int, rows: int = 0) -> None:
        self._caches[key] = HeldCache(reserved_bytes, rows_max, rows)

    def kept(self, prefix_bytes: int) -> None:
        self.prefix_bytes = prefix_bytes

    def wrote(self, key: CacheKey, rows: int) -> None:
        """It holds so many rows now; nothing happens to one that is closed."""
        cache = self._caches.get(key)
        if cache is not None:
            cache.rows = min(max(cache.rows, rows), cache.rows_max)

    def closed(self, key: CacheKey) -> None:
        """Idempotent."""
        self._caches.pop(key, None)

    def caches_of(self, shard: ShardId) -> list[CacheKey]:
        return [key for key in self._caches if key[0] == shard]

    def lost(self) -> None:
        """The process has ended."""
        self._shards.clear()
        self._caches.clear()
        self.prefix_bytes = 0
