"""The quickest chain over many nodes: a few starts, then single changes for as long as one makes it quicker.

The starts are a short path through layers and nodes, and the quickest nodes by time per layer with their share of a hop. A change is
rated with the caps of inner ranges (`chain_changes`) and taken if it holds what it promised with the caps as they are; where none
does, other ends are tried. At last the best chain over the nodes of all results together is found exactly, if they are few.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from inference.placement.planning.chain_changes import Order, Ring
from inference.placement.planning.chain_path import short_path
from inference.placement.planning.costs import Chain, Costs
from inference.placement.planning.exact_chain import EXACT_NODES_MAX, SAME_MS, exact_quickest_chain
from inference.placement.planning.sharing import share_layers

EFFORT: Final = 300  # nodes rated from one start: a ring of 10 gets 20 rounds, of 55 it gets 5
HOP_SHARES: Final = (1.0, 4.0)  # of the usual hop, counted with a node's layers: more leads to fewer nodes
ARRANGED_MAX: Final = 16  # nodes; the ends of a longer chain matter less, and to try them all takes longer


def search_quickest_chain(costs: Costs) -> Chain | None:
    """A chain of little time per token, or None if no chain that holds all layers was found."""
    starts = [short_path(costs), *(_greedy(costs, _by_rate(costs, share)) for share in HOP_SHARES)]
    orders = {chain.order: None for chain in starts if chain is not None}
    if not orders:
        roomy = _greedy(costs, _by_room(costs))
        if roomy is None:
            return None
        orders = {roomy.order: None}
    price = _Price(costs)
    found = [_bettered(costs, price, order) for order in orders]
    found.sort(key=price.token_ms)
    best = found[0]
    if len(best) < EXACT_NODES_MAX:
        together = _together(costs, found)
        if together is not None and price.betters(together, price.token_ms(best)):
            best = _bettered(costs, price, together)
    return costs.filled(best)


def _together(costs: Costs, found: Sequence[Order]) -> Order | None:
    """The best of all chains over the nodes that were found, filled up with the best of the others."""
    others = itertools.chain.from_iterable(
        zip(*(_by_rate(costs, share) for share in HOP_SHARES), strict=True)
    )
    pool = list(dict.fromkeys([*itertools.chain.from_iterable(found), *others]))[:EXACT_NODES_MAX]
    chain = exact_quickest_chain(costs.along(pool))
    return tuple(pool[node] for node in chain.order) if chain else None


def find_any_chain(costs: Costs) -> Chain | None:
    """Quicker than the search: whether there is one, as far as its starts can tell."""
    return short_path(costs) or _greedy(costs, _by_rate(costs, 1.0)) or _greedy(costs, _by_room(costs))


def search_even_chain(costs: Costs) -> Chain | None:
    """All nodes, each as long at work as the others; the order is bettered between ends that have room."""
    for first, last in _ends(costs):
        inside = [node for node in range(costs.nodes) if node not in (first, last)]
        order = (first, *inside, last)
        if costs.fits(order):
            order = _reordered(costs, order)
            times = [float(costs.layer_ms[node]) for node in order]
            return Chain(order, share_layers(costs.layers, times, costs.caps(order)))
    return None


# Starts --------------------------------------------------------------------------------------------------------------


def _ends(costs: Costs) -> Iterator[tuple[int, int]]:
    """Pairs that could hold the first and the last range: near the entry first, then the earliest and the latest."""
    firsts = [int(node) for node in np.nonzero(costs.first > 0)[0]]
    lasts = [int(node) for node in np.nonzero(costs.last > 0)[0]]
    firsts.sort(key=lambda node: (float(costs.enter_ms[node]), node))
    lasts.sort(key=lambda node: (float(costs.leave_ms[node]), -node))
    return ((first, last) for first in firsts for last in lasts if first != last)


def _greedy(costs: Costs, preferred: Sequence[int]) -> Chain | None:
    """The first of those nodes that have room for all layers, between two ends that are preferred or lose least."""
    for first, last in _pairs(costs, preferred):
        left = costs.layers - int(costs.first[first]) - int(costs.last[last])
        inside: list[int] = []
        for node in preferred:
            if left <= 0 or len(inside) + 2 >= costs.layers:
                break
            if node not in (first, last):
                inside.append(node)
                left -= int(costs.inner[node])
        if left <= 0 and costs.fits(order := (first, *inside, last)) and np.isfinite(costs.ring_ms(order)):
            return costs.filled(order)
    return None


def _by_rate(costs: Costs, hop_share: float) -> list[int]:
    """Nodes by time per layer, with that many usual hops shared by all layers that it holds."""
    hop_ms = np.where(np.isfinite(costs.hop_ms), costs.hop_ms, 0.0)
    rated = costs.layer_ms + hop_share * np.median(hop_ms, axis=0) / np.maximum(costs.inner, 1)
    return [int(node) for node in np.lexsort((np.arange(costs.nodes), rated)) if costs.inner[node] > 0]


def _by_room(costs: Costs) -> list[int]:
    """The roomiest first, which hold all layers if any nodes can."""
    return [int(node) for node in np.argsort(-costs.inner, kind="stable") if costs.inner[node] > 0]


def _pairs(costs: Costs, preferred: Sequence[int]) -> Iterator[tuple[int, int]]:
    """A few of the best ends, and those that lose the fewest layers there."""
    lost_first, lost_last = costs.inner - costs.first, costs.inner - costs.last
    firsts = [node for node in preferred if costs.first[node] > 0]
    lasts = [node for node in preferred if costs.last[node] > 0]
    thrifty_firsts = sorted(firsts, key=lambda node: int(lost_first[node]))[:2]
    thrifty_lasts = sorted(lasts, key=lambda node: int(lost_last[node]))[:2]
    for some_firsts, some_lasts in ((firsts[:2], lasts[:3]), (thrifty_firsts, thrifty_lasts)):
        yield from ((first, last) for first in some_firsts for last in some_lasts if first != last)


# Changes -------------------------------------------------------------------------------------------------------------


def _bettered(costs: Costs, price: _Price, order: Order) -> Order:
    """Until no single change helps, or the effort is spent."""
    ring = Ring(costs)
    best_ms = price.token_ms(order)
    effort = EFFORT
    while effort > 0:
        effort -= len(order) + 5
        promised = ring.changes(order)
        better = _first_better(price, promised, best_ms)
        if better is None and len(order) <= ARRANGED_MAX:
            # Caps at the ends may forbid a change that other ends allow.
            arranged = itertools.chain.from_iterable(_arrangements(each) for each in (order, *promised))
            better = _first_better(price, arranged, best_ms)
        if better is None:
            break
        order, best_ms = better, price.token_ms(better)
    return _plain(price, order)


def _first_better(price: _Price, orders: Iterable[Order], than_ms: float) -> Order | None:
    return next((order for order in orders if price.betters(order, than_ms)), None)


def _arrangements(order: Order) -> Iterator[Order]:
    """The same ring begun elsewhere, both ways round, and every node in turn at either end."""
    for place in range(len(order)):
        turned = order[place:] + order[:place]
        yield turned
        yield turned[::-1]
        others = order[:place] + order[place + 1 :]
        yield (order[place], *others)
        yield (*others, order[place])


def _reordered(costs: Costs, order: Order) -> Order:
    """The same nodes between the same ends."""
    ring = Ring(costs)
    best_ms = costs.ring_ms(order)
    effort = EFFORT
    while effort > 0 and len(order) > 3:
        effort -= 5
        for promised in ring.reorderings(order):
            if (promised[0], promised[-1]) != (order[0], order[-1]):
                continue
            if (ms := costs.ring_ms(promised)) < best_ms - SAME_MS:
                order, best_ms = promised, ms
                break
        else:
            break
    return order


def _plain(price: _Price, order: Order) -> Order:
    """In the order of the nodes where that costs nothing, so that plans are easy to read."""
    plain = tuple(sorted(order))
    return plain if price.token_ms(plain) <= price.token_ms(order) + SAME_MS else order


class _Price:
    """The time per token of one order after another; in lists, because numpy is slow with single numbers."""

    def __init__(self, costs: Costs) -> None:
        self._layers = costs.layers
        self._layer_ms: list[float] = costs.layer_ms.tolist()
        self._caps: list[list[int]] = [each.tolist() for each in (costs.inner, costs.first, costs.last)]
        self._whole: list[int] = costs.whole.tolist()
        self._enter_ms: list[float] = costs.enter_ms.tolist()
        self._leave_ms: list[float] = costs.leave_ms.tolist()
        self._hop_ms: list[list[float]] = costs.hop_ms.tolist()

    def betters(self, order: Order, than_ms: float) -> bool:
        return self._ring_ms(order) < than_ms and self.token_ms(order) < than_ms - SAME_MS

    def token_ms(self, order: Order) -> float:
        """Infinite if that order has no room for all layers."""
        inner, first, last = self._caps
        caps = [inner[node] for node in order]
        if len(order) == 1:
            caps[0] = self._whole[order[0]]
        else:
            caps[0], caps[-1] = first[order[0]], last[order[-1]]
        left = self._layers - len(order)
        if left < 0 or min(caps) < 1:
            return math.inf
        times = [self._layer_ms[node] for node in order]
        compute_ms = sum(times)
        for ms, cap in sorted(zip(times, caps, strict=True)):
            more = min(left, cap - 1)
            compute_ms += more * ms
            left -= more
        return compute_ms + self._ring_ms(order) if left == 0 else math.inf

    def _ring_ms(self, order: Order) -> float:
        hop_ms = self._hop_ms
        between_ms = sum(hop_ms[a][b] for a, b in itertools.pairwise(order))
        return self._enter_ms[order[0]] + between_ms + self._leave_ms[order[-1]]
