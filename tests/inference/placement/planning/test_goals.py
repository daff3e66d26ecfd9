"""What else a plan depends on: scores, load, disks, refusals, --on, other models; and how it explains itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.placement.planning.plan import (
    Goal,
    Link,
    LinkTable,
    ModelSize,
    NodeView,
    Strategy,
    measure_size,
)
from inference.placement.planning.planner import make_plan
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.limits import MIB
from protocols.placement import Capacity, LayerRange

A, B, C, D = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABCD")
PLENTY = 1 << 40
SIZE = ModelSize("eight", layers=8, layer_bytes=10 * MIB)
ONE_STREAM = Goal(Strategy.INTERACTIVE)


def view(layer_ms=1.0, free_bytes=PLENTY, layers_max=0, **rest):
    return NodeView(Capacity(layer_ms, free_bytes, layers_max), **rest)


def shares(plan):
    return {planned.primary: planned.range.layers for planned in plan.ranges}


def refused(plan):
    return {refusal.peer: refusal.reason for refusal in plan.refusals}


# Scores and load -----------------------------------------------------------------------------------------------------


def test_a_bad_score_makes_a_node_as_slow_as_its_tries():
    equal = make_plan(SIZE, {A: view(), B: view()}, A)
    assert shares(equal) == {A: 4, B: 4}
    plan = make_plan(SIZE, {A: view(), B: view(score=1 / 3, score_reason="failed 6 of its last 9 steps")}, A)
    assert shares(plan) == {A: 6, B: 2}
    assert plan.token_ms == pytest.approx(equal.token_ms), "the prediction is of a step that succeeds"
    assert "score 0.33 (failed 6 of its last 9 steps)" in plan.ranges[1].reason


def test_a_bad_score_counts_on_the_hop_as_well():
    """Both would serve in no time; the hop to B is tried five times for every two tokens."""
    nodes = {B: view(0.0, score=0.4), C: view(0.1)}
    assert shares(make_plan(SIZE, nodes, A, ONE_STREAM)) == {C: 8}


def test_a_node_below_the_floor_is_left_out_while_the_others_suffice():
    nodes = {
        A: view(9.0),
        B: view(score=0.12, score_reason="failed 9 of its last 20 steps"),
        C: view(score=0.3),
    }
    plan = make_plan(SIZE, nodes, A)
    assert set(shares(plan)) == {A, C}
    assert refused(plan) == {B: "score 0.12 below 0.3: failed 9 of its last 20 steps"}
    assert all(standby.peer != B for planned in plan.ranges for standby in planned.standbys)


def test_of_nodes_below_the_floor_the_best_are_taken_if_the_model_needs_them():
    nodes = {
        A: view(free_bytes=40 * MIB),
        B: view(free_bytes=40 * MIB, score=0.1),
        C: view(free_bytes=40 * MIB, score=0.2),
        D: view(free_bytes=40 * MIB, score=0.0),
    }
    plan = make_plan(SIZE, nodes, A)
    assert set(shares(plan)) == {A, C}
    assert refused(plan) == {B: "score 0.10 below 0.3", D: "score 0.00 below 0.3"}


def test_a_busy_node_is_as_slow_as_what_is_left_of_its_time():
    plan = make_plan(SIZE, {A: view(), B: view(load=2 / 3)}, A)
    assert shares(plan) == {A: 6, B: 2}
    assert plan.ranges[1].compute_ms == pytest.approx(6)
    assert "busy 67% of its time" in plan.ranges[1].reason


@pytest.mark.parametrize("load", [1.0, 7.0])
def test_a_node_that_says_it_has_no_time_left_still_counts(load):
    plan = make_plan(SIZE, {A: view(load=load)}, A)
    assert plan.token_ms == pytest.approx(80)


@pytest.mark.parametrize("layer_ms", [float("inf"), float("nan"), 1e300])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_node_that_tells_an_absurd_time_spoils_no_plan(layer_ms, strategy):
    nodes = {
        A: view(layer_ms, free_bytes=40 * MIB),
        B: view(free_bytes=40 * MIB),
        C: view(free_bytes=40 * MIB),
    }
    shared = shares(make_plan(SIZE, nodes, A, Goal(strategy)))
    assert shared.get(A, 0) <= 1
    with_it = make_plan(SIZE, {A: nodes[A], B: nodes[B]}, A, Goal(strategy))
    assert shares(with_it) == {A: 4, B: 4}, "if there is no other"
    many = {PeerId(f"12D3KooW{number:044}"): view(free_bytes=10 * MIB) for number in range(12)}
    assert A not in shares(make_plan(SIZE, {A: nodes[A], **many}, A, Goal(strategy)))


def test_a_link_without_any_bandwidth_is_avoided():
    size = ModelSize("eight", 8, 10 * MIB, row_bytes=4096)
    nodes = {peer: view(free_bytes=40 * MIB) for peer in (A, B, C)}
    links = LinkTable({(A, B): Link(1.0, 0.0)})
    assert set(shares(make_plan(size, nodes, A, ONE_STREAM, links))) == {A, C}


# Who may take part ---------------------------------------------------------------------------------------------------


def test_a_node_that_refuses_is_left_out_for_its_reason():
    nodes = {A: view(), B: view(refused="its operator accepts no offers"), C: view()}
    plan = make_plan(SIZE, nodes, A)
    assert set(shares(plan)) == {A, C}
    assert refused(plan) == {B: "its operator accepts no offers"}
    assert B not in {each.peer for each in plan.assignments()}


def test_only_the_named_nodes_hold_anything():
    nodes = {peer: view() for peer in (A, B, C, D)}
    plan = make_plan(SIZE, nodes, A, Goal(only=frozenset({B, C}), replicas=3))
    assert {each.peer for each in plan.assignments()} == {B, C}
    assert refused(plan) == dict.fromkeys((A, D), "not named with --on")
    assert plan.ranges[0].hop_ms > 0, "the entry is not among them"


def test_too_few_named_nodes_are_refused_with_advice_to_name_more():
    nodes = {A: view(), B: view(free_bytes=30 * MIB)}
    with pytest.raises(
        UserError, match=r"the 1 node asked has 30 MiB.*or name 2 more nodes like .* with --on"
    ):
        make_plan(SIZE, nodes, A, Goal(only=frozenset({B})))
    with pytest.raises(UserError, match=r"allow 3: raise their layers_max, or name more of them with --on"):
        make_plan(SIZE, {A: view(), B: view(layers_max=3)}, A, Goal(only=frozenset({B})))


def test_a_cap_of_two_layers_is_kept_whatever_the_strategy():
    nodes = {A: view(0.1, layers_max=2), B: view(), C: view()}
    for strategy in Strategy:
        plan = make_plan(SIZE, nodes, A, Goal(strategy))
        assert shares(plan).get(A, 0) == 2
        assert "its operator allows 2 layers" in plan.ranges[0].reason


def test_a_node_that_makes_the_chain_no_better_is_told_so():
    plan = make_plan(SIZE, {A: view(1.0), B: view(4.0, free_bytes=5 * MIB), C: view(3.0)}, A, ONE_STREAM)
    assert refused(plan) == {
        B: "no room for one layer",
        C: "not needed: the others hold every layer, at 1 ms a layer or less; here it takes 3 ms",
    }


# Memory and disk -----------------------------------------------------------------------------------------------------


def test_what_other_models_hold_is_no_longer_there():
    """A second model sees what the first has left: capacities are of the moment."""
    free_bytes = {A: 60 * MIB, B: 100 * MIB}
    first = make_plan(
        ModelSize("first", 4, 10 * MIB), {peer: view(free_bytes=free) for peer, free in free_bytes.items()}, A
    )
    for each in first.assignments():
        free_bytes[each.peer] -= each.bytes_needed
    second = make_plan(SIZE, {peer: view(free_bytes=free) for peer, free in free_bytes.items()}, A)
    for each in second.primaries():
        free_bytes[each.peer] -= each.bytes_needed
    assert min(free_bytes.values()) >= 0
    with pytest.raises(UserError, match="are missing"):
        make_plan(SIZE, {peer: view(free_bytes=free) for peer, free in free_bytes.items()}, A)


def test_kv_for_more_rows_takes_more_nodes():
    size = measure_size(
        "eight", 8, lambda held: held.layers * 10 * MIB, lambda held: held.layers * 1024, 0, 4096
    )
    assert (size.kv_row_bytes, size.row_bytes, size.kv_bytes) == (1024, 4096, 0)
    nodes = {A: view(free_bytes=80 * MIB), B: view(9.0, free_bytes=80 * MIB)}
    assert shares(make_plan(size, nodes, A, ONE_STREAM)) == {A: 8}
    long = Goal(Strategy.INTERACTIVE, rows_reserved=10 * 1024)
    plan = make_plan(size, nodes, A, long)
    assert shares(plan) == {A: 4, B: 4}
    assert plan.ranges[0].bytes_needed == 80 * MIB


def test_a_full_disk_holds_only_what_lies_there():
    held = (LayerRange(0, 3),)
    nodes = {A: view(), B: view(0.1, disk_free_bytes=5 * MIB), C: view(0.1, disk_free_bytes=0, holds=held)}
    plan = make_plan(SIZE, nodes, A)
    assert shares(plan) == {A: 5, C: 3}
    assert refused(plan) == {B: "no room for one layer on its disk"}
    with pytest.raises(UserError, match=r"the disks of these 2 nodes have room for 3: free disk space"):
        make_plan(SIZE, {peer: nodes[peer] for peer in (B, C)}, A)


def test_a_node_that_has_the_weights_needs_no_disk_for_them():
    has_them = NodeView(Capacity(1.0, PLENTY, has_weights=True), disk_free_bytes=0)
    plan = make_plan(SIZE, {A: has_them}, A)
    assert "has its weights" in plan.ranges[0].reason


def test_a_reason_tells_what_has_to_be_fetched():
    holds = (LayerRange(0, 2), LayerRange(1, 3))
    plan = make_plan(SIZE, {A: view(holds=holds), B: view()}, A)
    assert "10 MiB of weights to fetch" in plan.ranges[0].reason
    assert "fetch" not in plan.ranges[1].reason.split("standby")[0]


# Whatever the mesh ---------------------------------------------------------------------------------------------------


@st.composite
def meshes(draw):
    size = ModelSize(
        "any",
        draw(st.integers(1, 12)),
        draw(st.integers(1, 20)),
        draw(st.integers(0, 30)),
        draw(st.integers(0, 30)),
    )
    views = st.builds(
        NodeView,
        st.builds(Capacity, st.floats(0, 9), st.integers(0, 200), st.sampled_from([0, 0, 2, 9])),
        score=st.floats(0, 1),
        load=st.floats(0, 1),
        disk_free_bytes=st.none() | st.integers(0, 200),
        refused=st.sampled_from(["", "", "", "away"]),
    )
    peers = [PeerId(f"peer-{number:02}") for number in range(11)]
    nodes = draw(st.dictionaries(st.sampled_from(peers), views, min_size=1))
    only = frozenset(draw(st.sets(st.sampled_from(peers), max_size=9)))
    return size, nodes, draw(st.sampled_from(peers)), Goal(draw(st.sampled_from(list(Strategy))), only=only)


def outcome(*arguments):
    try:
        return make_plan(*arguments)
    except UserError as error:
        return str(error)


@given(meshes(), st.randoms(use_true_random=False))
def test_plans_cover_every_layer_once_and_equal_inputs_give_equal_plans(mesh, random):
    size, nodes, entry, goal = mesh
    plan = outcome(size, nodes, entry, goal)
    shuffled = list(nodes.items())
    random.shuffle(shuffled)
    assert outcome(size, dict(shuffled), entry, goal) == plan
    if isinstance(plan, str):
        assert "\n" not in plan
        return
    ends = [0, *(planned.range.end for planned in plan.ranges)]
    assert [planned.range.start for planned in plan.ranges] == ends[:-1]
    assert ends[-1] == size.layers
    primaries = [planned.primary for planned in plan.ranges]
    assert len(set(primaries)) == len(primaries)
    assert set(primaries) | set(refused(plan)) == set(nodes), "every node takes part or is told why not"
    assert set(primaries).isdisjoint(refused(plan))
    for planned in plan.ranges:
        seen = nodes[planned.primary]
        assert not seen.refused
        assert not goal.only or planned.primary in goal.only
        assert planned.bytes_needed <= seen.capacity.free_bytes
        assert planned.range.layers <= (seen.capacity.layers_max or size.layers)
        assert seen.disk_free_bytes is None or size.weight_bytes(planned.range) <= seen.disk_free_bytes
    assert plan.token_ms == pytest.approx(plan.compute_ms + plan.hop_ms)


@given(meshes())
def test_a_mesh_is_refused_only_if_no_strategy_finds_room(mesh):
    size, nodes, entry, goal = mesh
    plans = [outcome(size, nodes, entry, Goal(strategy, only=goal.only)) for strategy in Strategy]
    assert len({isinstance(plan, str) for plan in plans}) == 1
