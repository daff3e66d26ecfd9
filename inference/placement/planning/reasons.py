"""Reasons: what a plan says of itself, for `weft plan --why`."""

from __future__ import annotations

from collections.abc import Sequence

from inference.placement.planning.costs import expected_layer_ms
from inference.placement.planning.plan import Goal, PlannedRange, PlannedStandby, Refusal, StandbyPolicy
from inference.placement.planning.room import Room
from inference.placement.planning.shortage import in_mib
from inference.placement.planning.standbys import Spare
from protocols.ids import PeerId
from protocols.placement import LayerRange


def explain_range(
    room: Room,
    peer: PeerId,
    held: LayerRange,
    layer_ms: float,
    hop_ms: float,
    standbys: Sequence[PlannedStandby],
) -> str:
    """One sentence: time, memory, what limits it, and what happens when it is lost."""
    view, size = room.nodes[peer], room.size_at(peer)
    parts = [
        f"{held.layers} of {size.layers} layers at {layer_ms:.3g} ms = {held.layers * layer_ms:.3g} ms"
        + (f" after a hop of {hop_ms:.3g} ms" if hop_ms else ""),
        f"{in_mib(size.bytes_of(held))} of {in_mib(view.capacity.free_bytes)} free",
    ]
    if view.load > 0:
        parts.append(f"busy {view.load:.0%} of its time")
    if view.score < 1:
        parts.append(f"score {view.score:.2f}" + (f" ({view.score_reason})" if view.score_reason else ""))
    if view.capacity.layers_max:
        parts.append(f"its operator allows {view.capacity.layers_max} layers")
    if view.holds or view.capacity.held or view.capacity.has_weights:
        missing_bytes = room.missing_bytes(peer, held)
        parts.append(f"{in_mib(missing_bytes)} of weights to fetch" if missing_bytes else "has its weights")
    return "; ".join(parts if standbys else [*parts, "no standby"])


def explain_standbys(
    primaries: Sequence[tuple[PeerId, LayerRange]],
    standbys: Sequence[Sequence[PlannedStandby]],
    entry: PeerId,
    spare: Spare,
    goal: Goal,
) -> tuple[str, ...]:
    """Of ranges with fewer standbys than were asked for: why, and what happens instead."""
    notes = []
    bare = [place for place, chosen in enumerate(standbys) if not chosen]
    wanted = goal.replicas - 1 if goal.standby is not StandbyPolicy.NONE else 0
    why = "because no other node has room" if wanted else "as was asked"
    rescued = [
        primaries[place]
        for place in bare
        if primaries[place][0] != entry and spare.rescues(entry, primaries[place][1])
    ]
    if len(rescued) < len(bare):
        notes.append(
            f"{len(bare) - len(rescued)} of {len(primaries)} ranges have no standby, {why}: "
            "if its holder is lost, so is the session"
        )
    if rescued:
        longest_ms = max(spare.cold_ms(entry, held) for _peer, held in rescued)
        notes.append(
            f"{len(rescued)} of {len(primaries)} ranges have no standby, {why}: if its holder is lost, the entry "
            f"serves it itself after a pause of up to about {longest_ms / 1e3:.2g} s"
        )
    fewer = sum(0 < len(chosen) < wanted for chosen in standbys)
    if fewer:
        notes.append(f"{fewer} of {len(primaries)} ranges have fewer than {wanted} standbys, {why}")
    return tuple(notes)


def explain_unused(
    room: Room, peers: Sequence[PeerId], ranges: Sequence[PlannedRange]
) -> tuple[Refusal, ...]:
    """Of nodes with room for a layer that hold none, because the chain is no better with them."""
    primaries = {planned.primary for planned in ranges}
    slowest_ms = max(planned.compute_ms / planned.range.layers for planned in ranges)
    return tuple(
        Refusal(
            peer,
            f"not needed: the others hold every layer, at {slowest_ms:.3g} ms a layer or less; "
            f"here it takes {expected_layer_ms(room.nodes[peer]):.3g} ms",
        )
        for peer in sorted(room.nodes)
        if peer not in primaries and room.cap(peer) > 0
    )
