"""The planner: who gets which layers. Pure, and equal inputs give equal plans.

The strategy of this first form is *spread*: every node that can hold a layer gets one contiguous range, as long as its
speed allows (`sharing`) within its memory and its operator's cap. The proposer goes first, because it sees the prompt anyway;
the others follow in the order of their ids. Then every range gets a hot standby: the node with the fewest standbys so far that
has room, and of those the next one along the chain. So the standbys are spread evenly, and after a failure two neighbouring
ranges lie on one node, which makes the chain a hop shorter rather than longer.

The predicted time per token is the ring of facts: the compute of all layers plus one hop for every change of node on the way
from the proposer along the chain and back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from inference.placement.plan import ModelSize, Plan, PlannedRange
from inference.placement.sharing import share_layers
from protocols.errors import UserError
from protocols.ids import PeerId, shortened
from protocols.limits import MIB
from protocols.placement import Capacity, LayerRange

HOP_MS: Final = 1.0  # software on both sides of a hop, before any distance


def make_plan(
    size: ModelSize, nodes: Mapping[PeerId, Capacity], proposer: PeerId, rtt_ms: float = 0.0
) -> Plan:
    """Every layer covered once. Raises `UserError`, with what is missing, if the nodes have no room for the model."""
    room = _Room(size, nodes)
    order = _order(room, proposer)
    caps = [
        room.cap(peer, is_first=place == 0, is_last=place == len(order) - 1)
        for place, peer in enumerate(order)
    ]
    counts = share_layers(size.layers, [nodes[peer].layer_ms for peer in order], caps)
    ranges = tuple(_cut(counts))
    standbys = _choose_standbys(room, order, ranges)
    planned = tuple(
        _explain(size, nodes, held, peer, standby)
        for held, peer, standby in zip(ranges, order, standbys, strict=True)
    )
    hop_ms = HOP_MS + rtt_ms / 2
    token_ms = sum(each.step_ms for each in planned) + hop_ms * _hops(order, proposer)
    return Plan(planned, token_ms, _notes(room, order, standbys))


@dataclass(frozen=True, slots=True)
class _Room:
    """How much of a model each node could hold."""

    size: ModelSize
    nodes: Mapping[PeerId, Capacity]

    def layers_max(self, peer: PeerId) -> int:
        """0 on the wire means that the operator set no cap."""
        return self.nodes[peer].layers_max or self.size.layers * 2

    def cap(self, peer: PeerId, *, is_first: bool = False, is_last: bool = False) -> int:
        """Layers of a primary range at that place of the chain."""
        extra_bytes = self.size.extra_bytes(is_first=is_first, is_last=is_last)
        return min(self.fitting(peer, extra_bytes), self.layers_max(peer))

    def fitting(self, peer: PeerId, extra_bytes: int = 0) -> int:
        """Layers that memory alone allows."""
        left_bytes = max(0, self.nodes[peer].free_bytes - extra_bytes)
        return min(left_bytes // max(1, self.size.bytes_per_layer), self.size.layers)


# The order of the chain ----------------------------------------------------------------------------------------------


def _order(room: _Room, proposer: PeerId) -> tuple[PeerId, ...]:
    """The holders along the chain, with room for all layers between them."""
    layers = room.size.layers
    able = [peer for peer in sorted(room.nodes) if room.cap(peer) > 0]
    able.sort(key=lambda peer: peer != proposer)
    inner = {peer: room.cap(peer) for peer in able}
    if layers > 1:
        for first, last in _ends(room, able):
            between = _between(room, [peer for peer in able if peer not in (first, last)])
            total = sum(inner[peer] for peer in between)
            total += room.cap(first, is_first=True) + room.cap(last, is_last=True)
            if total >= layers:
                return (first, *between, last)
    for peer in able:
        if room.cap(peer, is_first=True, is_last=True) >= layers:
            return (peer,)
    raise _too_big(room)


def _ends(room: _Room, able: Sequence[PeerId]) -> Iterator[tuple[PeerId, PeerId]]:
    """Pairs that could hold the first and the last range, the preferred first."""
    firsts = [peer for peer in able if room.cap(peer, is_first=True) > 0]
    lasts = [peer for peer in reversed(able) if room.cap(peer, is_last=True) > 0]
    return ((first, last) for first in firsts for last in lasts if first != last)


def _between(room: _Room, others: Sequence[PeerId]) -> list[PeerId]:
    """All of them, or the quickest if there are more nodes than layers."""
    quickest = sorted(others, key=lambda peer: (room.nodes[peer].layer_ms, peer))[: room.size.layers - 2]
    return [peer for peer in others if peer in quickest]


def _too_big(room: _Room) -> UserError:
    """Layers are counted, not only bytes: what a node has beyond whole layers helps nobody."""
    size, nodes = room.size, room.nodes
    fitting = [room.fitting(peer) for peer in nodes]
    allowed = sum(room.cap(peer) for peer in nodes)
    if sum(fitting) >= size.layers > allowed:
        return UserError(
            f"{size.name} has {size.layers} layers and the operators of these {len(nodes)} nodes allow {allowed}: "
            "raise their layers_max, or let more nodes join with 'weft invite'."
        )
    needed_bytes = size.bytes_of(size.whole)
    free_bytes = sum(capacity.free_bytes for capacity in nodes.values())
    missing_bytes = max((size.layers - allowed) * size.bytes_per_layer, needed_bytes - free_bytes, 1)
    largest_bytes = max((capacity.free_bytes for capacity in nodes.values()), default=0) or missing_bytes
    more = -(-missing_bytes // largest_bytes)
    asked = "the 1 node asked has" if len(nodes) == 1 else f"the {len(nodes)} nodes asked have"
    willing = "" if free_bytes else "set worker.accept_offers where it is off, "
    return UserError(
        f"{size.name} needs {in_mib(needed_bytes)} and {asked} {in_mib(free_bytes)} free: "
        f"{in_mib(missing_bytes)} are missing. Free memory, {willing}or let {more} more "
        f"{'nodes' if more > 1 else 'node'} like the largest join with 'weft invite'."
    )


# Ranges and standbys -------------------------------------------------------------------------------------------------


def _cut(counts: Sequence[int]) -> Iterator[LayerRange]:
    start = 0
    for count in counts:
        yield LayerRange(start, start + count)
        start += count


def _choose_standbys(
    room: _Room, order: Sequence[PeerId], ranges: Sequence[LayerRange]
) -> tuple[PeerId | None, ...]:
    """For every range a node other than its holder that has room left, or None."""
    candidates = [*order, *(peer for peer in sorted(room.nodes) if peer not in order)]
    spare_bytes = {peer: room.nodes[peer].free_bytes for peer in candidates}
    spare_layers = {peer: room.layers_max(peer) for peer in candidates}
    given = dict.fromkeys(candidates, 0)

    def take(peer: PeerId, held: LayerRange) -> None:
        spare_bytes[peer] -= room.size.bytes_of(held)
        spare_layers[peer] -= held.layers

    for peer, held in zip(order, ranges, strict=True):
        take(peer, held)
    chosen: list[PeerId | None] = []
    for place, held in enumerate(ranges):
        along = [*candidates[place + 1 :], *candidates[:place]]
        fitting = [
            peer
            for peer in along
            if spare_bytes[peer] >= room.size.bytes_of(held) and spare_layers[peer] >= held.layers
        ]
        standby = min(fitting, key=given.__getitem__, default=None)
        if standby is not None:
            take(standby, held)
            given[standby] += 1
        chosen.append(standby)
    return tuple(chosen)


# Words ---------------------------------------------------------------------------------------------------------------


def _hops(order: Sequence[PeerId], entry: PeerId) -> int:
    ring = [entry, *order, entry]
    return sum(a != b for a, b in itertools.pairwise(ring))


def _explain(
    size: ModelSize,
    nodes: Mapping[PeerId, Capacity],
    held: LayerRange,
    peer: PeerId,
    standby: PeerId | None,
) -> PlannedRange:
    capacity, bytes_needed = nodes[peer], size.bytes_of(held)
    step_ms = held.layers * capacity.layer_ms
    reason = (
        f"{held.layers} of {size.layers} layers at {capacity.layer_ms:.3g} ms = {step_ms:.3g} ms; "
        f"{in_mib(bytes_needed)} of {in_mib(capacity.free_bytes)} free"
    )
    if capacity.layers_max:
        reason += f"; its operator allows {capacity.layers_max} layers"
    reason += f"; hot standby on {shortened(standby)}" if standby else "; no standby"
    return PlannedRange(held, peer, standby, bytes_needed, step_ms, reason)


def _notes(room: _Room, order: Sequence[PeerId], standbys: Sequence[PeerId | None]) -> tuple[str, ...]:
    left_out = [
        f"{shortened(peer)} holds no range: "
        + ("the others have every layer" if room.cap(peer) else "no room for one layer")
        for peer in sorted(room.nodes)
        if peer not in order
    ]
    bare = standbys.count(None)
    if bare:
        left_out.append(
            f"{bare} of {len(order)} ranges have no standby, because no other node has room: "
            "if its holder is lost, so is the session"
        )
    return tuple(left_out)


def in_mib(count: int) -> str:
    return f"{count / MIB:,.0f} MiB" if count >= 10 * MIB else f"{count / MIB:.2f} MiB"
