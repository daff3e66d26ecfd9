"""A short path through layers and nodes: the start of the search for the quickest chain over many nodes.

States are (layers covered, node that holds the last of them), an edge adds a node with any number of layers that it can hold. That
is a shortest path in layers x nodes^2 steps, but for one thing: a node may hold one range only. So every state keeps which nodes lie
on its best path, and no edge leads to one of them. Therefore the path is not always the shortest, as a state forgets all paths but
one; `chain_search` betters it.
"""

from __future__ import annotations

import numpy as np

from inference.placement.planning.costs import Chain, Costs, Counts, Floats


def short_path(costs: Costs) -> Chain | None:
    """None if it finds no chain for all layers; there may be one all the same."""
    paths = _Paths(costs)
    for covered in range(1, costs.layers):
        paths.go_on(covered)
    return paths.best()


class _Paths:
    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        layers, count = costs.layers, costs.nodes
        self._nodes = np.arange(count)
        self._taken: Counts = np.arange(1, layers + 1)[:, None]  # [layers of one range, 1]
        self._held_ms: Floats = self._taken * costs.layer_ms  # [layers of one range, node]
        self._inner_ms: Floats = np.where(self._taken <= costs.inner, self._held_ms, np.inf)
        self._cost_ms: Floats = np.full((layers, count), np.inf)  # [covered, last node]
        self._from_layer: Counts = np.zeros((layers, count), np.int64)
        self._from_node: Counts = np.full((layers, count), -1, np.int64)
        self._on_path = np.zeros((layers, count, count), bool)  # [covered, last node, node]
        first_ms = np.where(self._taken <= costs.first, self._held_ms, np.inf) + costs.enter_ms
        self._cost_ms[1:] = first_ms[: layers - 1]
        alone_ms = np.where(costs.whole >= layers, self._held_ms[-1], np.inf)
        alone_ms = alone_ms + costs.enter_ms + costs.leave_ms
        node = int(np.argmin(alone_ms))
        self._ended: tuple[float, Chain] | None = None
        if np.isfinite(alone_ms[node]):
            self._ended = float(alone_ms[node]), Chain((node,), (layers,))

    def go_on(self, covered: int) -> None:
        """Every path that covers so many layers: one range further, or with one last range to the end."""
        ended_here = np.nonzero(np.isfinite(self._cost_ms[covered]))[0]
        if not len(ended_here):
            return
        self._mark(covered, ended_here)
        way_ms = self._cost_ms[covered, ended_here, None] + self._costs.hop_ms[ended_here]  # [from, to]
        way_ms[self._on_path[covered, ended_here]] = np.inf
        best = np.argmin(way_ms, axis=0)
        arrived_ms, come_from = way_ms[best, self._nodes], ended_here[best]
        self._end(covered, arrived_ms, come_from)
        more = self._costs.layers - 1 - covered
        further_ms = arrived_ms + self._inner_ms[:more]
        better = further_ms < self._cost_ms[covered + 1 :]
        self._cost_ms[covered + 1 :][better] = further_ms[better]
        self._from_layer[covered + 1 :][better] = covered
        self._from_node[covered + 1 :][better] = np.broadcast_to(come_from, better.shape)[better]

    def best(self) -> Chain | None:
        return self._ended[1] if self._ended else None

    def _mark(self, covered: int, nodes: Counts) -> None:
        """Those states are final now: nothing that is shorter comes any more."""
        came_layer, came_node = self._from_layer[covered, nodes], self._from_node[covered, nodes]
        later = came_node >= 0
        self._on_path[covered, nodes[later]] = self._on_path[came_layer[later], came_node[later]]
        self._on_path[covered, nodes, nodes] = True

    def _end(self, covered: int, arrived_ms: Floats, come_from: Counts) -> None:
        costs = self._costs
        left = costs.layers - covered
        total_ms = np.where(costs.last >= left, arrived_ms + self._held_ms[left - 1] + costs.leave_ms, np.inf)
        node = int(np.argmin(total_ms))
        if not np.isfinite(total_ms[node]) or (self._ended and self._ended[0] <= total_ms[node]):
            return
        order, counts = [node], [left]
        layer, at = covered, int(come_from[node])
        while at >= 0:
            start = int(self._from_layer[layer, at])
            order.append(at)
            counts.append(layer - start)
            layer, at = start, int(self._from_node[layer, at])
        self._ended = float(total_ms[node]), Chain(tuple(reversed(order)), tuple(reversed(counts)))
