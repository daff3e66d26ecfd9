"""Changes of a chain: each is worth what it promises, and holds the same nodes or one more or less."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest

from inference.placement.planning.chain_changes import Ring
from inference.placement.planning.chain_path import short_path
from inference.placement.planning.costs import Costs, costs_of
from inference.placement.planning.plan import NodeView
from inference.placement.planning.room import Room
from tests.inference.placement.planning.drawn_mesh import draw_mesh


def drawn_costs(seed: int, nodes: int = 9, layers: int = 14) -> Costs:
    """Of a mesh whose ends hold as much as its middle, so that changes are rated exactly; scores make hops one-way."""
    random = Random(seed)
    mesh = draw_mesh(random, nodes, layers)
    views = {peer: NodeView(capacity, score=random.uniform(0.3, 1)) for peer, capacity in mesh.nodes.items()}
    room = Room(mesh.size, views)
    peers = [peer for peer in mesh.peers if room.cap(peer) > 0]
    costs = costs_of(room, peers, mesh.entry, mesh.links).scored([views[peer].score for peer in peers])
    return Costs(
        layers,
        costs.layer_ms,
        *[costs.inner] * 4,
        costs.enter_ms,
        costs.hop_ms,
        costs.leave_ms,
        costs.row_ms,
    )


def some_orders(costs: Costs, seed: int):
    """Chains that hold all layers, good ones and bad ones."""
    random = Random(seed)
    start = short_path(costs)
    if start is not None:
        yield start.order
    for _ in range(4):
        order = tuple(random.sample(range(costs.nodes), random.randint(2, costs.nodes)))
        if costs.fits(order):
            yield order


@pytest.mark.parametrize("seed", range(40))
def test_a_change_is_worth_what_it_promises(seed):
    costs = drawn_costs(seed)
    ring = Ring(costs)
    for order in some_orders(costs, seed):
        now_ms = costs.token_ms(costs.filled(order))
        rated = [*ring._other_nodes(order), *ring._other_orders(order)]
        for gain_ms, changed in rated:
            assert gain_ms < 0, "only what helps is worth a look"
            assert len(set(changed)) == len(changed)
            assert costs.fits(changed)
            assert costs.token_ms(costs.filled(changed)) - now_ms == pytest.approx(gain_ms, abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_no_single_change_of_a_kind_is_better_than_the_best_that_is_named(seed):
    costs = drawn_costs(seed, nodes=6, layers=10)
    ring = Ring(costs)

    def worth(changed, now_ms):
        return costs.token_ms(costs.filled(changed)) - now_ms if costs.fits(changed) else np.inf

    for order in some_orders(costs, seed):
        now_ms = costs.token_ms(costs.filled(order))
        outside = [node for node in range(costs.nodes) if node not in order]
        places = range(len(order))
        others = [
            *((*order[:place], node, *order[place + 1 :]) for place in places for node in outside),
            *((*order[:place], node, *order[place:]) for place in (*places, len(order)) for node in outside),
            *(order[:place] + order[place + 1 :] for place in places if len(order) > 1),
        ]
        turned = [
            order[:start] + order[start:end][::-1] + order[end:]
            for start, end in itertools.combinations(range(len(order) + 1), 2)
        ]
        moved = [
            rest[:at] + order[start:end] + rest[at:]
            for start, end in itertools.combinations(range(len(order) + 1), 2)
            if end - start <= 3
            for rest in [order[:start] + order[end:]]
            for at in range(len(rest) + 1)
        ]
        for every, named in ((others, ring._other_nodes), (turned + moved, ring._other_orders)):
            best_ms = min((worth(changed, now_ms) for changed in every), default=np.inf)
            named_ms = min((gain_ms for gain_ms, _changed in named(order)), default=0.0)
            assert named_ms == pytest.approx(min(best_ms, 0.0), abs=1e-6)
