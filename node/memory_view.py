"""What a node shows of its memory, as `node.memory` has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inference.engine.memory.pressure import PINCHED_ROWS, Level
from inference.sessions.shard import ShardServer
from node import memory
from node.memory_watch import Measured, MemoryWatch
from protocols.ids import ModelDigest, PeerId
from protocols.seams import CacheUse, ShardId, ShardWorker, WorkerMemory


@dataclass(frozen=True, slots=True)
class MemoryView:
    """Reads the parts of one node; changes nothing. `name_of` is a node's, `model_name` a model's."""

    own: PeerId
    worker: ShardWorker
    server: ShardServer
    watch: MemoryWatch
    name_of: Callable[[PeerId], str]
    model_name: Callable[[ModelDigest], str]

    def now(self) -> memory.TensorMemory:
        measured, used = self.watch.measured(), self.worker.memory()
        pressure = self.watch.pressure
        return memory.TensorMemory(
            peer=self.own,
            name=self.name_of(self.own),
            level=pressure.level.name.lower(),
            reason=pressure.reason,
            does=self._measures(pressure.level, used.device),
            machine=memory.MachineMemory(
                measured.machine.available_bytes,
                measured.machine.total_bytes,
                "control group" if measured.machine.is_group else "machine",
            ),
            worker=self._worker(measured, used),
            shards=tuple(self._shard(shard, used) for shard in used.shards),
            caches=tuple(map(self._cache, used.caches)),
            orphans_closed=self.watch.orphans_closed,
        )

    def _measures(self, level: Level, device: str) -> tuple[str, ...]:
        if level is Level.NORMAL:
            return ()
        taken = ("it opens no more sessions and takes no more layers",)
        if device != "cpu":  # what lies on a card stays there: the machine would have nothing of it
            pinched = f"it computes at most {PINCHED_ROWS} rows in a turn"
            return taken if level is Level.HIGH else (*taken, pinched)
        dropped = "it keeps no prompts for later sessions"
        if level is Level.HIGH:
            return (*taken, dropped)
        spare = (
            "it lets go of standbys, which stay on disk"
            if self.watch.has_spare_range
            else "it has no standby left to let go of: withdraw a model here, or stop another program"
        )
        return (*taken, f"it computes at most {PINCHED_ROWS} rows in a turn", spare, dropped)

    def _worker(self, measured: Measured, used: WorkerMemory) -> memory.ProcessMemory:
        return memory.ProcessMemory(
            pid=self.worker.pid,
            budget_bytes=used.budget_bytes,
            weights_bytes=sum(used.shards.values()),
            reserved_bytes=used.reserved_bytes,
            used_bytes=used.used_bytes,
            free_bytes=self.worker.free_bytes(),
            resident_bytes=measured.worker.resident_bytes,
            private_bytes=measured.worker.private_bytes,
            limit_bytes=self.watch.limit_bytes(measured.worker),
            prefix_bytes=used.prefix_bytes,
            device=used.device,
        )

    def _shard(self, shard: ShardId, used: WorkerMemory) -> memory.ShardMemory:
        caches = [cache for cache in used.caches if cache.shard == shard]
        return memory.ShardMemory(
            model=self.model_name(shard.model),
            digest=shard.model,
            range=str(shard.range),
            weights_bytes=used.shards[shard],
            caches=len(caches),
            reserved_bytes=sum(cache.reserved_bytes for cache in caches),
            used_bytes=sum(cache.used_bytes for cache in caches),
        )

    def _cache(self, cache: CacheUse) -> memory.CacheMemory:
        return memory.CacheMemory(
            session=cache.session,
            stage=cache.stage,
            model=self.model_name(cache.shard.model),
            range=str(cache.shard.range),
            known=(cache.session, cache.stage) in self.server.sessions,
            reserved_bytes=cache.reserved_bytes,
            used_bytes=cache.used_bytes,
        )
