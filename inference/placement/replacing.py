"""Planning a model anew on nodes that may hold some of it already, as a pure function.

The rule of the file: make before break. What a node holds of the model counts as free, because the new plan replaces it; but
until it is replaced both lie in memory, so where a node has no room for both, only what is free beside the old ranges counts.
The plan says so, because without the old ranges there might be a better one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from inference.placement.planning.plan import Goal, LinkTable, ModelSize, NodeView, Plan
from inference.placement.planning.planner import in_mib, make_plan
from protocols.errors import UserError
from protocols.ids import PeerId, shortened
from protocols.placement import Capacity

Planner = Callable[[ModelSize, Mapping[PeerId, NodeView], PeerId, Goal, LinkTable], Plan]


class Outlook(Protocol):
    """What this node believes of others besides what they answer to a survey, which is filled in where a view leaves it out."""

    def view(self, peer: PeerId, capacity: Capacity) -> NodeView: ...
    def links(self) -> LinkTable: ...


class PlainOutlook:
    """Nothing is known of anybody."""

    def view(self, peer: PeerId, capacity: Capacity) -> NodeView:
        return NodeView(capacity)

    def links(self) -> LinkTable:
        return LinkTable()


@dataclass(frozen=True, slots=True)
class Replacing:
    """Plans `size` for one proposer."""

    size: ModelSize
    proposer: PeerId
    goal: Goal
    outlook: Outlook

    def plan(self, capacities: Mapping[PeerId, Capacity]) -> Plan:
        """Raises `UserError` with what is missing."""
        crowded: set[PeerId] = set()
        while True:
            try:
                plan = self._planned(capacities, crowded)
            except UserError as error:
                raise self._too_crowded(error, capacities, crowded) from error
            more = {peer for peer in capacities if not _fits_beside(plan, peer, capacities[peer])} - crowded
            if not more:
                return replace(plan, notes=(*plan.notes, *self._notes(capacities, crowded)))
            crowded |= more

    def _planned(self, capacities: Mapping[PeerId, Capacity], crowded: set[PeerId]) -> Plan:
        views = {
            peer: self._view(peer, _beside(capacity) if peer in crowded else _instead(capacity))
            for peer, capacity in capacities.items()
        }
        if self.proposer in views:  # it has the whole model, or it could not offer it
            views[self.proposer] = replace(views[self.proposer], holds=(self.size.whole,))
        return make_plan(self.size, views, self.proposer, self.goal, self.outlook.links())

    def _view(self, peer: PeerId, capacity: Capacity) -> NodeView:
        view = self.outlook.view(peer, capacity)
        free_bytes = capacity.disk_free_bytes if view.disk_free_bytes is None else view.disk_free_bytes
        return replace(view, disk_free_bytes=free_bytes, holds=view.holds or capacity.held)

    def _notes(self, capacities: Mapping[PeerId, Capacity], crowded: set[PeerId]) -> list[str]:
        return [
            f"{shortened(peer)} was planned with {in_mib(capacities[peer].free_bytes)}, which are free beside the "
            f"{in_mib(capacities[peer].held_bytes)} it holds of {self.size.name}: 'weft withdraw' frees those first"
            for peer in sorted(crowded)
        ]

    def _too_crowded(
        self, error: UserError, capacities: Mapping[PeerId, Capacity], crowded: set[PeerId]
    ) -> UserError:
        if not crowded:
            return error
        held_bytes = sum(capacities[peer].held_bytes for peer in crowded)
        return UserError(
            f"{self.size.name} is held already, and what is free beside that is too little for a new plan: "
            f"'weft withdraw' frees {in_mib(held_bytes)} first. ({error})"
        )


def _instead(capacity: Capacity) -> Capacity:
    """As if the old ranges were gone."""
    return msgspec.structs.replace(capacity, free_bytes=capacity.free_bytes + capacity.held_bytes)


def _beside(capacity: Capacity) -> Capacity:
    """The old ranges stay until the new ones serve."""
    if not capacity.layers_max:
        return capacity
    layers_left = capacity.layers_max - capacity.held_layers
    if layers_left > 0:
        return msgspec.structs.replace(capacity, layers_max=layers_left)
    return msgspec.structs.replace(capacity, free_bytes=0, layers_max=0)  # on the wire a cap of 0 is none


def _fits_beside(plan: Plan, peer: PeerId, capacity: Capacity) -> bool:
    """Whether what the plan adds at that node has room beside what it holds; what it keeps needs none."""
    added = [each for each in plan.assignments() if each.peer == peer and each.range not in capacity.held]
    if sum(each.bytes_needed for each in added) > capacity.free_bytes:
        return False
    layers = sum(each.range.layers for each in added)
    return not capacity.layers_max or layers + capacity.held_layers <= capacity.layers_max or not layers
