"""Changes of a chain, rated all at once: what each would do to the time per token, with the caps of inner ranges.

Those of the travelling salesman with optional cities: a node replaced by one outside, taken in, or left out; up to three moved
elsewhere (Or, 1976); a part of the ring reversed. Hops change in a few places of the ring, and the compute of a set of nodes without
one of them and with another follows from its layers in the order of their times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from inference.placement.planning.costs import Costs, Counts, Floats
from inference.placement.planning.exact_chain import SAME_MS

TRIES: Final = 4  # of the changes of one kind that look best
SEGMENT_MAX: Final = 3  # nodes moved together
NO_HOP_MS: Final = (
    1e12  # huge instead of infinite, because the difference of two that are not there is no number
)

Order = tuple[int, ...]


class Ring:
    """Rates changes of an order. The entry is one more place, at which the ring begins and ends."""

    def __init__(self, costs: Costs) -> None:
        count = costs.nodes
        self._costs = costs
        self._entry = count
        self._hop_ms: Floats = np.zeros((count + 1, count + 1))
        self._hop_ms[:count, :count] = costs.hop_ms
        self._hop_ms[count, :count] = costs.enter_ms
        self._hop_ms[:count, count] = costs.leave_ms
        self._hop_ms[~np.isfinite(self._hop_ms)] = NO_HOP_MS

    def changes(self, order: Order) -> list[Order]:
        """The most promising of every kind, the best first."""
        rated = [*self._other_nodes(order), *self._other_orders(order)]
        return [changed for _ms, changed in sorted(rated)[: 2 * TRIES]]

    def reorderings(self, order: Order) -> list[Order]:
        return [changed for _ms, changed in sorted(self._other_orders(order))[: 2 * TRIES]]

    # Which nodes

    def _other_nodes(self, order: Order) -> Iterator[tuple[float, Order]]:
        costs, hop_ms = self._costs, self._hop_ms
        places = np.array([self._entry, *order, self._entry])
        outside = np.setdiff1d(np.nonzero(costs.inner > 0)[0], np.array(order))
        together = Fill(costs, np.array(order))
        now_ms = together.alone_ms(costs.layers - len(order))
        before, here, after = places[:-2], places[1:-1], places[2:]
        without_ms = hop_ms[before, after] - hop_ms[before, here] - hop_ms[here, after]
        swapped_ms = hop_ms[before][:, outside] + hop_ms[outside][:, after].T
        swapped_ms -= (hop_ms[before, here] + hop_ms[here, after])[:, None]  # [place, outside]
        dropped_ms = np.full(len(order), np.inf)
        for place in range(len(order)):
            rest = together.without(order[place])
            swapped_ms[place] += rest.with_one_ms(outside, costs.layers - len(order)) - now_ms
            dropped_ms[place] = rest.alone_ms(costs.layers - len(order) + 1) - now_ms + without_ms[place]
        for gain_ms, (place, index) in _least(swapped_ms):
            yield gain_ms, (*order[:place], int(outside[index]), *order[place + 1 :])
        for gain_ms, (place,) in _least(dropped_ms):
            if len(order) > 1:
                yield gain_ms, order[:place] + order[place + 1 :]
        if len(order) < costs.layers:
            a, b = places[:-1], places[1:]
            added_ms = hop_ms[a][:, outside] + hop_ms[outside][:, b].T - hop_ms[a, b][:, None]
            added_ms += together.with_one_ms(outside, costs.layers - len(order) - 1) - now_ms
            for gain_ms, (place, index) in _least(added_ms):
                yield gain_ms, (*order[:place], int(outside[index]), *order[place:])

    # In which order

    def _other_orders(self, order: Order) -> Iterator[tuple[float, Order]]:
        if len(order) < 2:
            return
        yield from self._reversed(order)
        for length in range(1, min(SEGMENT_MAX, len(order) - 1) + 1):
            yield from self._moved(order, length)

    def _reversed(self, order: Order) -> Iterator[tuple[float, Order]]:
        """From place i to place j; links may cost more one way, as scores count on the hop to a node."""
        hop_ms = self._hop_ms
        nodes = np.array(order)
        before, after = np.array([self._entry, *order[:-1]]), np.array([*order[1:], self._entry])
        forth = np.concatenate([[0.0], np.cumsum(hop_ms[nodes[:-1], nodes[1:]])])
        back = np.concatenate([[0.0], np.cumsum(hop_ms[nodes[1:], nodes[:-1]])])
        ends_ms = hop_ms[before][:, nodes] + hop_ms[nodes][:, after]  # [i, j]
        ends_ms -= hop_ms[before, nodes][:, None] + hop_ms[nodes, after][None, :]
        turned = back - forth
        gain_ms = ends_ms + turned[None, :] - turned[:, None]
        gain_ms[np.tril_indices(len(order))] = np.inf
        for ms, (start, end) in _least(gain_ms):
            yield ms, order[:start] + order[start : end + 1][::-1] + order[end + 1 :]

    def _moved(self, order: Order, length: int) -> Iterator[tuple[float, Order]]:
        """A segment from place i to between two others."""
        hop_ms = self._hop_ms
        count = len(order)
        places = np.array([self._entry, *order, self._entry])
        starts = np.arange(1, count - length + 2)
        head, tail = places[starts], places[starts + length - 1]
        before, after = places[starts - 1], places[starts + length]
        out_ms = hop_ms[before, after] - hop_ms[before, head] - hop_ms[tail, after]
        a, b = places[:-1], places[1:]
        in_ms = hop_ms[a][:, head].T + hop_ms[tail][:, b] - hop_ms[a, b][None, :]  # [start, gap]
        gain_ms = out_ms[:, None] + in_ms
        gaps = np.arange(count + 1)[None, :]
        gain_ms[(gaps >= starts[:, None] - 1) & (gaps <= starts[:, None] + length - 1)] = np.inf
        for ms, (index, gap) in _least(gain_ms):
            start = int(starts[index]) - 1
            segment, rest = order[start : start + length], order[:start] + order[start + length :]
            at = gap if gap <= start else gap - length
            yield ms, rest[:at] + segment + rest[at:]


class Fill:
    """The least compute of a set of nodes and one more, all of them inside the chain and with at least one layer each."""

    def __init__(self, costs: Costs, nodes: Counts, *, are_sorted: bool = False) -> None:
        self._costs = costs
        self._nodes = nodes if are_sorted else nodes[np.argsort(costs.layer_ms[nodes], kind="stable")]
        times = costs.layer_ms[self._nodes]
        self._base_ms = float(times.sum())
        self._more_ms: Floats = np.repeat(times, np.maximum(costs.inner[self._nodes] - 1, 0))[: costs.layers]
        self._sum_ms: Floats = np.zeros(len(self._more_ms) + 1)
        np.cumsum(self._more_ms, out=self._sum_ms[1:])

    def without(self, node: int) -> Fill:
        return Fill(self._costs, self._nodes[self._nodes != node], are_sorted=True)

    def alone_ms(self, left: int) -> float:
        """With so many layers beyond one each; infinite if that is more than they hold."""
        return self._base_ms + float(self._sum_ms[left]) if 0 <= left < len(self._sum_ms) else math.inf

    def with_one_ms(self, others: Counts, left: int) -> Floats:
        """Per other node, taken in with one layer and with more where it is quicker. [other]"""
        costs = self._costs
        if left < 0:
            return np.full(len(others), np.inf)
        times = costs.layer_ms[others]
        quicker = np.minimum(np.searchsorted(self._more_ms, times, side="right"), left)
        taken = np.minimum(costs.inner[others] - 1, left - quicker)
        rest = left - taken
        there = rest < len(self._sum_ms)
        rest_ms = np.where(there, self._sum_ms[np.minimum(rest, len(self._sum_ms) - 1)], np.inf)
        together_ms: Floats = self._base_ms + times * (1 + taken) + rest_ms
        return together_ms


def _least(gain_ms: Floats) -> list[tuple[float, tuple[int, ...]]]:
    """The few that promise most, with their indices."""
    flat = gain_ms.ravel()
    count = min(TRIES, flat.size)
    if not count:
        return []
    least = np.argpartition(flat, count - 1)[:count]
    return [
        (float(flat[index]), tuple(int(each) for each in np.unravel_index(index, gain_ms.shape)))
        for index in sorted(least.tolist(), key=lambda index: (flat[index], index))
        if flat[index] < -SAME_MS
    ]
