"""The best chain over few nodes: all subsets, all orders, all cuts.

Orders by Held and Karp (1962): the least ring over a set of nodes with given ends is found from the sets with one node less. Cuts
by `sharing`, which is exact for a given order, because layers are alike and only the ends of a chain have other caps. Of equals the
chain with fewer nodes wins, then the one whose nodes come earlier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from inference.placement.planning.costs import Chain, Costs, Counts, Floats
from inference.placement.planning.sharing import fill_layers, share_layers

EXACT_NODES_MAX: Final = (
    8  # 2^8 sets x 8 x 8 ends; every further node more than doubles the time of about 15 ms
)
SAME_MS: Final = 1e-9  # differences below are rounding


class Rings:
    """The least way from the entry through all of a set, by set (as bits), first and last node."""

    def __init__(self, costs: Costs) -> None:
        count = costs.nodes
        assert count <= EXACT_NODES_MAX
        self._costs = costs
        self._way_ms: Floats = np.full((1 << count, count, count), np.inf)  # [set, first, last]
        self._before: Counts = np.zeros((1 << count, count, count), np.int64)
        for node in range(count):
            self._way_ms[1 << node, node, node] = costs.enter_ms[node]
        firsts = np.arange(count)
        for members in range(1, 1 << count):
            for node in range(count):
                if members >> node & 1:
                    continue
                way_ms = self._way_ms[members] + costs.hop_ms[:, node]  # [first, last]
                # Of equals the later node, so that read from the front the earlier ones come first.
                before = count - 1 - np.argmin(way_ms[:, ::-1], axis=1)
                self._way_ms[members | 1 << node, :, node] = way_ms[firsts, before]
                self._before[members | 1 << node, :, node] = before

    def ends(self, members: int) -> list[tuple[float, int, int]]:
        """Finite rings of that set as (ms, first, last), the least first."""
        ring_ms = self._way_ms[members] + self._costs.leave_ms
        found = [
            (float(ring_ms[first, last]), int(first), int(last))
            for first, last in zip(*np.nonzero(np.isfinite(ring_ms)), strict=True)
        ]
        return sorted(found, key=lambda ring: (round(ring[0], 9), ring[1], -ring[2]))

    def order(self, members: int, first: int, last: int) -> tuple[int, ...]:
        backwards = [last]
        while (members & (members - 1)) != 0:
            before = int(self._before[members, first, backwards[-1]])
            members ^= 1 << backwards[-1]
            backwards.append(before)
        return tuple(reversed(backwards))


def exact_quickest_chain(costs: Costs) -> Chain | None:
    """The least time per token, or None if no chain holds all layers."""
    rings = Rings(costs)
    best: Chain | None = None
    best_ms = math.inf
    for members, nodes in _subsets(costs.nodes):
        bound_ms = _least_compute_ms(costs, nodes)
        for ring_ms, first, last in rings.ends(members) if bound_ms < best_ms else ():
            if bound_ms + ring_ms >= best_ms - SAME_MS:
                break
            order = rings.order(members, first, last)
            if not costs.fits(order):
                continue
            chain = costs.filled(order)
            if (token_ms := costs.token_ms(chain)) < best_ms - SAME_MS:
                best, best_ms = chain, token_ms
    return best


def exact_even_chain(costs: Costs) -> Chain | None:
    """All nodes: the quickest slowest stage, then the least ring. None if no order holds all layers."""
    rings = Rings(costs)
    members = (1 << costs.nodes) - 1
    best: tuple[tuple[float, float], Chain] | None = None
    for ring_ms, first, last in rings.ends(members):
        order = rings.order(members, first, last)
        if not costs.fits(order):
            continue
        times = [float(costs.layer_ms[node]) for node in order]
        counts = share_layers(costs.layers, times, costs.caps(order))
        slowest_ms = max(count * ms for count, ms in zip(counts, times, strict=True))
        cost = (round(slowest_ms, 9), round(ring_ms, 9))
        if best is None or cost < best[0]:
            best = cost, Chain(order, counts)
    return best[1] if best else None


def _subsets(count: int) -> Iterator[tuple[int, list[int]]]:
    """The small ones first."""
    for members in sorted(range(1, 1 << count), key=lambda members: (members.bit_count(), members)):
        yield members, [node for node in range(count) if members >> node & 1]


def _least_compute_ms(costs: Costs, nodes: list[int]) -> float:
    """What the ends can't better: a range at an end holds no more than one inside."""
    caps = [int(costs.inner[node]) for node in nodes]
    if min(caps) < 1 or not len(nodes) <= costs.layers <= sum(caps):
        return math.inf
    times = [float(costs.layer_ms[node]) for node in nodes]
    counts = fill_layers(costs.layers, times, caps)
    return sum(count * ms for count, ms in zip(counts, times, strict=True))
