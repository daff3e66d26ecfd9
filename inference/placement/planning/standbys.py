"""Standbys: who takes over a range when its primary is lost, of which kind, and how long that will take.

A hot standby has the range in memory, a mapped one the weights on its disk and in the page cache, a cold one nothing. What a mapped
or cold one needs once it serves is checked, not reserved: the same free memory may stand behind several ranges, as they are seldom
lost together. So hot ones take only memory that is left beside those promises, beside the primaries, and beside a reserve.

For every range the first kind that the policy allows and some node has room for is taken; of those nodes one in another failure
domain, then the one with the fewest standbys so far, then the next one along the chain. Spread so, a failure leaves two neighbouring
ranges on one node, which makes the chain a hop shorter rather than longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from inference.placement.planning.plan import Goal, LinkTable, PlannedStandby, StandbyPolicy
from inference.placement.planning.room import Room
from protocols.ids import PeerId
from protocols.placement import LayerRange, StandbyKind

DETECT_MS: Final = 250.0  # from the loss of a stage until the entry knows; silence takes longer than a reset
SAID_MS: Final = 10.0  # a part of a pause below that is not worth a word
ATTACH_MS: Final = 250.0  # route around it, open streams, and replay the rows of a short context
PACK_BYTES_PER_S: Final = 500e6  # weights from the page cache into memory, where nobody has measured it
RESERVE_SHARE: Final = 1 / 8  # of a node's free memory, kept from hot standbys that nobody asked for

_KINDS: Final = {
    StandbyPolicy.AUTO: (StandbyKind.MAPPED, StandbyKind.HOT, StandbyKind.COLD),
    StandbyPolicy.HOT: (StandbyKind.HOT,),
    StandbyPolicy.MAPPED: (StandbyKind.MAPPED,),
    StandbyPolicy.COLD: (StandbyKind.COLD,),
    StandbyPolicy.NONE: (),
}


class Spare:
    """What the nodes have left beside their primary ranges, and less with every standby that is chosen."""

    def __init__(
        self, room: Room, primaries: Sequence[tuple[PeerId, LayerRange]], entry: PeerId, links: LinkTable
    ) -> None:
        self._room = room
        self._primaries = tuple(primaries)
        self._entry = entry
        self._links = links
        order = [peer for peer, _held in primaries]
        taken = set(order)
        self._candidates = [*order, *(peer for peer in sorted(room.nodes) if peer not in taken)]
        self._bytes = {peer: room.nodes[peer].capacity.free_bytes for peer in self._candidates}
        self._layers = {peer: room.layers_max(peer) for peer in self._candidates}
        self._disk_bytes = {peer: room.disk_bytes(peer) for peer in self._candidates}
        self._promised_bytes = dict.fromkeys(self._candidates, 0)
        self._given = dict.fromkeys(self._candidates, 0)
        for peer, held in primaries:
            self._bytes[peer] -= room.size_at(peer).bytes_of(held)
            self._keep(peer, held)

    def choose(self, goal: Goal) -> tuple[tuple[PlannedStandby, ...], ...]:
        """Up to `replicas` - 1 standbys for every range, the first ones of all ranges before any second."""
        chosen: list[list[PlannedStandby]] = [[] for _ in self._primaries]
        for _ in range(goal.replicas - 1):
            for place, (_peer, held) in enumerate(self._primaries):
                standby = self._best(place, held, [each.peer for each in chosen[place]], goal)
                if standby is not None:
                    chosen[place].append(standby)
        return tuple(tuple(each) for each in chosen)

    def rescues(self, peer: PeerId, held: LayerRange) -> bool:
        """Whether the node could load that range as well, once it has to."""
        return peer in self._bytes and self._has_room(peer, held)

    def cold_ms(self, peer: PeerId, held: LayerRange) -> float:
        """From the loss of a range until a node that has nothing of it in memory serves it."""
        return self._pause(peer, held, StandbyKind.COLD)[0]

    def _best(
        self, place: int, held: LayerRange, others: Sequence[PeerId], goal: Goal
    ) -> PlannedStandby | None:
        primary = self._primaries[place][0]
        along = [*self._candidates[place + 1 :], *self._candidates[:place]]
        free = [peer for peer in along if peer != primary and peer not in others]
        domains = {self._room.nodes[peer].domain for peer in (primary, *others)} - {""}
        free = [peer for peer in free if self._has_room(peer, held)]
        for kind in _KINDS[goal.standby]:
            fitting = [peer for peer in free if self._fits(peer, held, kind, goal.standby)]
            if fitting:
                peer = min(
                    fitting, key=lambda peer: (self._room.nodes[peer].domain in domains, self._given[peer])
                )
                return self._take(peer, held, kind)
        return None

    def _has_room(self, peer: PeerId, held: LayerRange) -> bool:
        needed_bytes = self._room.size_at(peer).bytes_of(held)
        return self._bytes[peer] >= needed_bytes and self._layers[peer] >= held.layers

    def _fits(self, peer: PeerId, held: LayerRange, kind: StandbyKind, policy: StandbyPolicy) -> bool:
        """Of a node that has room for the range once it has to serve it."""
        disk_bytes = self._disk_bytes[peer]
        on_disk = disk_bytes is None or disk_bytes >= self._room.size.weight_bytes(held)
        if kind is StandbyKind.MAPPED:
            # A disk that nobody knows is trusted only where the operator insists on this kind.
            return on_disk and (disk_bytes is not None or policy is StandbyPolicy.MAPPED)
        if kind is StandbyKind.COLD:
            return True
        reserve = RESERVE_SHARE if policy is StandbyPolicy.AUTO else 0.0
        kept_bytes = max(
            self._promised_bytes[peer], int(self._room.nodes[peer].capacity.free_bytes * reserve)
        )
        return on_disk and self._bytes[peer] - kept_bytes >= self._room.size_at(peer).bytes_of(held)

    def _take(self, peer: PeerId, held: LayerRange, kind: StandbyKind) -> PlannedStandby:
        promoted_bytes = self._room.size_at(peer).bytes_of(held)
        self._given[peer] += 1
        pause_ms, reason = self._pause(peer, held, kind)
        if kind is StandbyKind.HOT:
            self._bytes[peer] -= promoted_bytes
        else:
            self._promised_bytes[peer] = max(self._promised_bytes[peer], promoted_bytes)
        if kind is not StandbyKind.COLD:
            self._keep(peer, held)
        bytes_needed = promoted_bytes if kind is StandbyKind.HOT else 0
        return PlannedStandby(peer, kind, bytes_needed, promoted_bytes, pause_ms, reason)

    def _keep(self, peer: PeerId, held: LayerRange) -> None:
        """Its weights stay on the disk, and its layers count against the operator's cap."""
        self._layers[peer] -= held.layers
        disk_bytes = self._disk_bytes[peer]
        if disk_bytes is not None:
            self._disk_bytes[peer] = disk_bytes - self._room.size.weight_bytes(held)

    def _pause(self, peer: PeerId, held: LayerRange, kind: StandbyKind) -> tuple[float, str]:
        parts = [(DETECT_MS, "to notice"), (ATTACH_MS, "to take over")]
        weight_bytes = self._room.size.weight_bytes(held)
        if kind is StandbyKind.COLD:
            fetched_bytes = self._room.missing_bytes(peer, held)
            link = self._links.between(self._entry, peer)
            parts.append((link.row_ms(fetched_bytes), "to fetch weights"))
        if kind is not StandbyKind.HOT:
            pace = self._room.nodes[peer].weights_bytes_s or PACK_BYTES_PER_S
            parts.append((weight_bytes / pace * 1e3, "to load them" if len(parts) > 2 else "to load weights"))
        reason = ", ".join(f"{ms / 1e3:.3g} s {what}" for ms, what in parts if ms >= SAID_MS)
        return sum(ms for ms, _what in parts), reason
