"""Which chain suits a strategy: exact for few nodes, searched for many.

For the most tokens per second the slowest stage or link is to be as quick as can be, and among such chains the one with the least time
per token is best. So the rule is a bound on stages and links, as low as a chain within it exists.
"""

from __future__ import annotations

import bisect
from typing import Final, assert_never

import numpy as np

from inference.placement.planning.chain_search import find_any_chain, search_even_chain, search_quickest_chain
from inference.placement.planning.costs import Chain, Costs
from inference.placement.planning.exact_chain import EXACT_NODES_MAX, exact_even_chain, exact_quickest_chain
from inference.placement.planning.plan import Strategy
from inference.placement.planning.sharing import level_layers

SEARCHES_MAX: Final = 4  # for a bound, among many nodes; few are searched to the end


def choose_chain(costs: Costs, strategy: Strategy) -> Chain | None:
    """The best chain for that strategy, or None if none was found that holds all layers."""
    if not costs.nodes:
        return None
    match strategy:
        case Strategy.INTERACTIVE:
            return _quickest(costs)
        case Strategy.THROUGHPUT:
            return _steadiest(costs)
        case Strategy.CROSS_NODE_BALANCED:
            return _even(costs)
        case _:
            assert_never(strategy)


def _quickest(costs: Costs) -> Chain | None:
    return _exact_of_able(costs) if _are_few(costs) else search_quickest_chain(costs)


def _any(costs: Costs) -> Chain | None:
    return _exact_of_able(costs) if _are_few(costs) else find_any_chain(costs)


def _are_few(costs: Costs) -> bool:
    return int(np.count_nonzero(costs.inner)) <= EXACT_NODES_MAX


def _exact_of_able(costs: Costs) -> Chain | None:
    """Of the nodes that can hold a layer; a bound on stages may leave few of many."""
    able = np.nonzero(costs.inner)[0].tolist()
    chain = exact_quickest_chain(costs.along(able)) if able else None
    return Chain(tuple(able[node] for node in chain.order), chain.counts) if chain else None


def _even(costs: Costs) -> Chain | None:
    """Each of one node or more; of more nodes than layers the caller has taken the quickest."""
    few = costs.nodes <= EXACT_NODES_MAX
    together = exact_even_chain(costs) if few else search_even_chain(costs)
    if together is not None:
        return together
    # The ends need so much memory that only a node with all of it has room for both.
    return _quickest(costs)


def _steadiest(costs: Costs) -> Chain | None:
    times = np.maximum(costs.layer_ms, 0)
    if int(costs.inner.sum()) < costs.layers:
        return None
    levelled = level_layers(costs.layers, times.tolist(), costs.inner.tolist())
    bound_ms = max(count * ms for count, ms in zip(levelled, times.tolist(), strict=True))
    found = _quickest(costs.within(bound_ms))
    if found is not None:
        return found
    best = _any(costs)
    if best is None:
        return None
    bounds = _bounds(costs, bound_ms, costs.slowest_ms(best))
    searches = len(bounds) if _are_few(costs) else SEARCHES_MAX
    low, high = 0, len(bounds)  # a chain exists within every bound from `high` on, so far as is known
    while low < high and searches > 0:
        searches -= 1
        middle = (low + high) // 2
        chain = _any(costs.within(bounds[middle]))
        if chain is None:
            low = middle + 1
        else:
            best = chain
            high = bisect.bisect_left(bounds, costs.slowest_ms(chain) * (1 - 1e-9), 0, middle)
    return _quickest(costs.within(costs.slowest_ms(best))) or best


def _bounds(costs: Costs, above_ms: float, up_to_ms: float) -> list[float]:
    """Whatever a stage or link can take, between the two."""
    stages = np.outer(np.arange(1, costs.layers + 1), costs.layer_ms)
    every = np.unique(np.round(np.concatenate([stages.ravel(), costs.row_ms.ravel()]), 9))
    return [float(ms) for ms in every[(every > above_ms) & (every <= up_to_ms + 1e-9)]]
