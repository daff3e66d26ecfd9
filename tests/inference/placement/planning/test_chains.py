"""The chosen chain against every other chain: exact for few nodes, within a few per cent for more."""

from __future__ import annotations

import math
from random import Random

import pytest

from inference.placement.planning import chains
from inference.placement.planning.plan import Goal, Link, LinkTable, ModelSize, Strategy
from inference.placement.planning.planner import make_plan
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.limits import MIB
from protocols.placement import Capacity
from tests.inference.placement.planning.drawn_mesh import draw_mesh
from tests.inference.placement.planning.every_chain import Mesh, least_slowest_ms, least_token_ms, walked

A, B, C, D = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABCD")
PLENTY = 1 << 40
BARE = ModelSize("bare", layers=8, layer_bytes=MIB)


def planned(mesh: Mesh, strategy: Strategy) -> float:
    """What the plan promises: ms per token, or of the slowest stage; infinite if it is refused."""
    try:
        plan = make_plan(mesh.size, mesh.nodes, mesh.entry, Goal(strategy), mesh.links)
    except UserError:
        return math.inf
    return 1000 / plan.tokens_per_s if strategy is Strategy.THROUGHPUT else plan.token_ms


def primaries(nodes, strategy, links=None, entry=A, size=BARE):
    plan = make_plan(size, nodes, entry, Goal(strategy), links)
    return [(planned.primary, planned.range.layers) for planned in plan.ranges]


# Against every chain -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_the_oracle_finds_what_walking_through_every_chain_finds(seed):
    random = Random(seed)
    mesh = draw_mesh(random, random.randint(1, 4), random.randint(1, 6))
    assert (least_token_ms(mesh), least_slowest_ms(mesh)) == pytest.approx(walked(mesh))


@pytest.mark.parametrize("seed", range(60))
def test_a_plan_for_few_nodes_is_the_best_there_is(seed):
    random = Random(seed)
    mesh = draw_mesh(random, random.randint(1, 7), random.randint(1, 20))
    assert planned(mesh, Strategy.INTERACTIVE) == pytest.approx(least_token_ms(mesh))
    assert planned(mesh, Strategy.THROUGHPUT) == pytest.approx(least_slowest_ms(mesh))


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_for_more_nodes_is_within_a_twentieth_of_the_best(seed):
    random = Random(seed)
    mesh = draw_mesh(random, 9, random.randint(9, 20))
    assert planned(mesh, Strategy.INTERACTIVE) <= 1.05 * least_token_ms(mesh)
    assert planned(mesh, Strategy.THROUGHPUT) <= 1.05 * least_slowest_ms(mesh)


def test_the_search_for_many_nodes_seldom_misses_the_best_of_few(monkeypatch):
    monkeypatch.setattr(chains, "EXACT_NODES_MAX", 0)
    gaps = []
    for seed in range(60):
        random = Random(seed)
        mesh = draw_mesh(random, random.randint(3, 7), random.randint(2, 20))
        best = least_token_ms(mesh)
        if best < math.inf:
            gaps.append(planned(mesh, Strategy.INTERACTIVE) / best - 1)
    assert len(gaps) > 50
    assert min(gaps) > -1e-9, "nothing is better than the best"
    assert sorted(gaps)[-3] < 1e-9
    assert max(gaps) < 0.2


# Strategies ----------------------------------------------------------------------------------------------------------


def test_for_one_stream_a_quick_node_with_room_takes_everything():
    nodes = {A: Capacity(2.0, PLENTY), B: Capacity(1.0, PLENTY), C: Capacity(1.5, PLENTY)}
    assert primaries(nodes, Strategy.INTERACTIVE) == [(B, 8)]


def test_for_one_stream_the_hop_to_a_quicker_node_has_to_pay():
    nodes = {A: Capacity(1.0, PLENTY), B: Capacity(0.9, PLENTY)}
    assert primaries(nodes, Strategy.INTERACTIVE) == [(A, 8)], "0.8 ms won, two hops of 1 ms lost"
    near = LinkTable(default=Link(0.3))
    assert primaries(nodes, Strategy.INTERACTIVE, near) == [(B, 8)], "two hops of 0.3 ms lost"


def test_for_one_stream_the_quickest_are_filled_first():
    nodes = {A: Capacity(3.0, PLENTY), B: Capacity(1.0, PLENTY, 3), C: Capacity(2.0, PLENTY, 4)}
    near = LinkTable(default=Link(0.01))
    assert primaries(nodes, Strategy.INTERACTIVE, near) == [(A, 1), (B, 3), (C, 4)]


def test_for_one_stream_a_far_node_is_left_out_and_neighbours_lie_side_by_side():
    size = ModelSize("bare", layers=9, layer_bytes=MIB)
    nodes = {peer: Capacity(1.0, 3 * MIB) for peer in (A, B, C, D)}
    far, near = Link(40.0), Link(1.0)
    links = LinkTable({(A, C): near, (A, B): far, (B, C): far, (D, C): near, (A, D): Link(5.0), (B, D): far})
    assert primaries(nodes, Strategy.INTERACTIVE, links, size=size) == [(A, 3), (C, 3), (D, 3)]


def test_bytes_over_bandwidth_count_between_ranges_only():
    size = ModelSize("wide", layers=2, layer_bytes=MIB, row_bytes=10_000)
    nodes = {peer: Capacity(1.0, MIB) for peer in (B, C)}
    plan = make_plan(size, nodes, A, Goal(Strategy.INTERACTIVE), LinkTable(default=Link(1.0, 1e6)))
    assert plan.token_ms == pytest.approx(2 + 3 * 1 + 10)
    assert [planned.hop_ms for planned in plan.ranges] == pytest.approx([1, 11])
    assert (plan.compute_ms, plan.hop_ms, plan.return_ms) == pytest.approx((2, 13, 1))
    assert plan.tokens_per_s == pytest.approx(100), "the link carries 100 rows a second"


def test_for_many_streams_no_stage_is_slower_than_it_has_to_be():
    nodes = {A: Capacity(1.0, PLENTY), B: Capacity(2.0, PLENTY), C: Capacity(2.0, PLENTY)}
    assert primaries(nodes, Strategy.THROUGHPUT) == [(A, 4), (B, 2), (C, 2)]
    plan = make_plan(BARE, nodes, A, Goal(Strategy.THROUGHPUT))
    assert plan.tokens_per_s == pytest.approx(250)


def test_for_many_streams_a_node_that_makes_no_stage_quicker_is_left_out():
    nodes = {A: Capacity(1.0, PLENTY), B: Capacity(1.0, PLENTY), C: Capacity(9.0, PLENTY)}
    assert primaries(nodes, Strategy.THROUGHPUT) == [(A, 4), (B, 4)]
    assert primaries(nodes, Strategy.CROSS_NODE_BALANCED) == [(A, 4), (B, 3), (C, 1)]


def test_for_many_streams_a_slow_link_is_as_bad_as_a_slow_stage():
    size = ModelSize("wide", layers=2, layer_bytes=MIB, row_bytes=10_000)
    nodes = {A: Capacity(1.0, PLENTY), B: Capacity(1.0, PLENTY)}
    slow = LinkTable(default=Link(1.0, 1e6))
    assert primaries(nodes, Strategy.THROUGHPUT, slow, size=size) == [(A, 2)], "a row takes 10 ms to travel"


@pytest.mark.parametrize("strategy", [Strategy.THROUGHPUT, Strategy.CROSS_NODE_BALANCED])
def test_a_node_slowed_to_a_quarter_gets_fewer_layers(strategy):
    size = ModelSize("bare", layers=12, layer_bytes=MIB)
    before = dict(primaries({peer: Capacity(1.0, PLENTY) for peer in (A, B, C)}, strategy, size=size))
    slowed = {A: Capacity(1.0, PLENTY), B: Capacity(4.0, PLENTY), C: Capacity(1.0, PLENTY)}
    assert before == {A: 4, B: 4, C: 4}
    assert dict(primaries(slowed, strategy, size=size)).get(B, 0) < 2


def test_a_node_slowed_to_a_quarter_loses_its_layers_to_one_with_room():
    nodes = {A: Capacity(1.0, 5 * MIB), B: Capacity(1.0, 5 * MIB), C: Capacity(1.5, 5 * MIB)}
    assert primaries(nodes, Strategy.INTERACTIVE) == [(A, 5), (B, 3)]
    slowed = nodes | {B: Capacity(4.0, 5 * MIB)}
    assert primaries(slowed, Strategy.INTERACTIVE) == [(A, 5), (C, 3)]


def test_balanced_orders_the_ring_by_its_hops():
    nodes = {peer: Capacity(1.0, PLENTY) for peer in (A, B, C, D)}
    far, near = Link(30.0), Link(1.0)
    links = LinkTable({(A, C): near, (C, B): near, (B, D): near, (D, A): near}, default=far)
    order = [peer for peer, _layers in primaries(nodes, Strategy.CROSS_NODE_BALANCED, links)]
    assert order in ([A, C, B, D], [A, D, B, C])


def test_balanced_orders_a_long_ring_as_well():
    """Twelve nodes on a circle, listed criss-cross: the ring goes round once."""
    size = ModelSize("bare", layers=12, layer_bytes=MIB)
    peers = [PeerId(f"12D3KooW{number * 5 % 12:044}") for number in range(12)]
    links = {
        (peers[one], peers[other]): Link(float(min(other - one, 12 - other + one)))
        for one in range(12)
        for other in range(one + 1, 12)
    }
    nodes = {peer: Capacity(1.0, PLENTY) for peer in peers}
    goal = Goal(Strategy.CROSS_NODE_BALANCED)
    assert make_plan(size, nodes, peers[0], goal, LinkTable(links)).token_ms == pytest.approx(12 + 12)
