"""What is said when a model does not fit: how much is missing, and what would help."""

from __future__ import annotations

from inference.placement.planning.room import Room
from protocols.errors import UserError
from protocols.limits import MIB


def too_big(room: Room, *, is_subset: bool) -> UserError:
    """Layers are counted, not only bytes: what a node has beyond whole layers helps nobody."""
    size, nodes = room.size, room.nodes
    more_nodes = "name more of them with --on" if is_subset else "let more nodes join with 'weft invite'"
    fitting = [room.in_memory(peer) for peer in nodes]
    allowed = sum(room.cap(peer) for peer in nodes)
    allowed_by_operators = sum(min(room.in_memory(peer), room.layers_max(peer)) for peer in nodes)
    if sum(fitting) >= size.layers > allowed_by_operators:
        return UserError(
            f"{size.name} has {size.layers} layers and the operators of these {len(nodes)} nodes allow {allowed}: "
            f"raise their layers_max, or {more_nodes}."
        )
    if allowed_by_operators >= size.layers > allowed:
        return UserError(
            f"{size.name} has {size.layers} layers and the disks of these {len(nodes)} nodes have room for {allowed}: "
            f"free disk space, or {more_nodes}."
        )
    needed_bytes = size.bytes_of(size.whole)
    free_bytes = sum(view.capacity.free_bytes for view in nodes.values())
    missing_bytes = max((size.layers - allowed) * size.bytes_per_layer, needed_bytes - free_bytes, 1)
    largest_bytes = max((view.capacity.free_bytes for view in nodes.values()), default=0) or missing_bytes
    more = -(-missing_bytes // largest_bytes)
    asked = "the 1 node asked has" if len(nodes) == 1 else f"the {len(nodes)} nodes asked have"
    willing = "" if free_bytes else "set worker.accept_offers where it is off, "
    count = f"{more} more {'nodes' if more > 1 else 'node'}"
    help_of_more = (
        f"name {count} like the largest with --on"
        if is_subset
        else f"let {count} like the largest join with 'weft invite'"
    )
    return UserError(
        f"{size.name} needs {in_mib(needed_bytes)} and {asked} {in_mib(free_bytes)} free: "
        f"{in_mib(missing_bytes)} are missing. Free memory, {willing}or {help_of_more}."
    )


def in_mib(count: int) -> str:
    return f"{count / MIB:,.0f} MiB" if count >= 10 * MIB else f"{count / MIB:.2f} MiB"
