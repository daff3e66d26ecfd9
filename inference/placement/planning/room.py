"""Room: how many layers of a model each node could hold, by memory, disk and its operator's cap."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from inference.placement.planning.plan import ModelSize, NodeView
from protocols.ids import PeerId
from protocols.placement import LayerRange


@dataclass(frozen=True, slots=True)
class Room:
    size: ModelSize
    nodes: Mapping[PeerId, NodeView]

    def size_at(self, peer: PeerId) -> ModelSize:
        """With KV as it lies at that node."""
        return self.size.at(self.nodes[peer].capacity)

    def layers_max(self, peer: PeerId) -> int:
        """0 on the wire means that the operator set no cap."""
        return self.nodes[peer].capacity.layers_max or self.size.layers * 8

    def cap(self, peer: PeerId, *, is_first: bool = False, is_last: bool = False) -> int:
        """Layers of a primary range at that place of the chain."""
        extra_bytes = self.size.extra_bytes(is_first=is_first, is_last=is_last)
        return min(self.in_memory(peer, extra_bytes), self._on_disk(peer, extra_bytes), self.layers_max(peer))

    def in_memory(self, peer: PeerId, extra_bytes: int = 0) -> int:
        """Layers that memory alone allows."""
        left_bytes = max(0, self.nodes[peer].capacity.free_bytes - extra_bytes)
        return min(left_bytes // max(1, self.size_at(peer).bytes_per_layer), self.size.layers)

    def _on_disk(self, peer: PeerId, extra_bytes: int) -> int:
        disk_bytes = self.disk_bytes(peer)
        if disk_bytes is None:
            return self.size.layers
        left_bytes = max(0, disk_bytes - extra_bytes)
        return min(left_bytes // max(1, self.size.layer_bytes), self.size.layers)

    def disk_bytes(self, peer: PeerId) -> int | None:
        """What the node's disk can keep of this model, weights that lie there already included; None: unknown."""
        free_bytes = self.nodes[peer].disk_free_bytes
        if free_bytes is None:
            return None
        whole = self.size.whole
        return free_bytes + self.size.weight_bytes(whole) - self.missing_bytes(peer, whole)

    def missing_bytes(self, peer: PeerId, held: LayerRange) -> int:
        """Weights of that range that the node would have to fetch."""
        view = self.nodes[peer]
        if view.capacity.has_weights:
            return 0
        lie_there = (*view.holds, *view.capacity.held)
        if not lie_there:
            return self.size.weight_bytes(held)
        there = {layer for each in lie_there for layer in range(each.start, each.end)}
        missing = sum(layer not in there for layer in range(held.start, held.end))
        last = self.size.layers - 1
        extra_bytes = self.size.extra_bytes(
            is_first=held.start == 0 and 0 not in there, is_last=held.end > last and last not in there
        )
        return missing * self.size.layer_bytes + extra_bytes

    def suffices(self, peers: Collection[PeerId]) -> bool:
        """Whether these nodes can hold all layers between them, one contiguous range each."""
        layers = self.size.layers
        if any(self.cap(peer, is_first=True, is_last=True) >= layers for peer in peers):
            return True
        if layers == 1:
            return False
        caps = {peer: self.cap(peer) for peer in sorted(peers)}
        # What being at an end costs a node; beside the best two of each kind no other pair can be better.
        firsts = sorted(
            (caps[peer] - cap, peer) for peer in peers if (cap := self.cap(peer, is_first=True)) > 0
        )
        lasts = sorted(
            (caps[peer] - cap, peer) for peer in peers if (cap := self.cap(peer, is_last=True)) > 0
        )
        lost = [
            first_lost + last_lost
            for first_lost, first in firsts[:2]
            for last_lost, last in lasts[:2]
            if first != last
        ]
        return bool(lost) and sum(caps.values()) - min(lost) >= layers
