"""How this node is, as its health digest tells the others every few seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from inference.placement.driver import Placement
from inference.sessions.shard import ShardServer
from mesh.members.driver import Members
from mesh.picture.health import Vitals, digest_of
from mesh.picture.loop_lag import LoopLag
from node.machine import Readings
from protocols.health import HealthDigest, LinkHealth, RangeHealth
from protocols.seams import Seams


@dataclass(frozen=True, slots=True)
class VitalSigns:
    """`readings` asks the machine."""

    seams: Seams
    members: Members
    placement: Placement
    server: ShardServer
    lag: LoopLag
    readings: Callable[[], Readings]

    def digest(self) -> HealthDigest:
        machine = self.readings()
        vitals = Vitals(
            loop_lag_ms=self.lag.lag_ms(trio.current_time()),
            memory_free_bytes=machine.memory_free_bytes,
            memory_total_bytes=machine.memory_total_bytes,
            load=machine.load,
            sessions=len(self.server.sessions),
            queue=self.seams.worker.waiting(),
            ranges=self._ranges(),
            links=[LinkHealth(peer, rtt_ms, 0.0) for peer, rtt_ms in self.members.watch.rtts_ms.items()],
        )
        return digest_of(vitals, int(self.seams.clock.wall() * 1e3))

    def _ranges(self) -> list[RangeHealth]:
        """Primaries first: they are what the mesh runs on."""
        claims = sorted((held.claim for held in self.placement.own_shards()), key=lambda claim: claim.standby)
        return [RangeHealth(claim.model, claim.range, claim.layer_ms) for claim in claims]
