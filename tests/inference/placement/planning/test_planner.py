"""The planner against its promises: coverage, memory, caps, the best split, and sentences for what is missing."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.placement.planning.plan import ModelSize, measure_size
from inference.placement.planning.planner import HOP_MS, make_plan
from inference.placement.planning.sharing import share_layers
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.limits import MIB
from protocols.placement import Capacity, LayerRange

A, B, C, D = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABCD")
TINY = ModelSize("tiny", layers=8, layer_bytes=MIB, embedding_bytes=MIB, head_bytes=MIB, kv_bytes=MIB // 2)
PLENTY = 1 << 40


def layers_of(plan):
    return [(planned.range.start, planned.range.end) for planned in plan.ranges]


# Sharing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "layer_ms", "caps", "expected"),
    [
        (9, (1, 1, 1), (9, 9, 9), (3, 3, 3)),
        (8, (1, 1, 1), (8, 8, 8), (3, 3, 2)),
        (10, (1, 1, 2), (10, 10, 10), (4, 4, 2)),
        (12, (1, 2, 4), (12, 12, 12), (8, 3, 1)),
        (14, (1, 2, 4), (14, 14, 14), (8, 4, 2)),
        (10, (1, 1, 2), (2, 10, 10), (2, 6, 2)),
        (3, (1, 100, 1), (3, 3, 3), (1, 1, 1)),
        (5, (0, 1), (5, 5), (4, 1)),
    ],
)
def test_layers_are_shared_in_inverse_proportion_to_their_time(layers, layer_ms, caps, expected):
    assert share_layers(layers, layer_ms, caps) == expected


@st.composite
def shares(draw):
    count = draw(st.integers(1, 4))
    layer_ms = draw(st.lists(st.floats(0.1, 50), min_size=count, max_size=count))
    caps = draw(st.lists(st.integers(1, 8), min_size=count, max_size=count))
    return draw(st.integers(count, sum(caps))), layer_ms, caps


@given(shares())
def test_no_other_split_has_a_quicker_slowest_stage(share):
    layers, layer_ms, caps = share
    counts = share_layers(layers, layer_ms, caps)
    assert sum(counts) == layers
    assert all(1 <= count <= cap for count, cap in zip(counts, caps, strict=True))

    def slowest(split):
        return max(count * ms for count, ms in zip(split, layer_ms, strict=True))

    every_split = itertools.product(*(range(1, cap + 1) for cap in caps))
    best = min(slowest(split) for split in every_split if sum(split) == layers)
    assert slowest(counts) == pytest.approx(best)


# Plans ---------------------------------------------------------------------------------------------------------------


def test_three_equal_nodes_share_the_layers_and_stand_by_for_one_another():
    plan = make_plan(TINY, {peer: Capacity(1.0, PLENTY) for peer in (A, B, C)}, B)
    assert layers_of(plan) == [(0, 3), (3, 6), (6, 8)]
    assert [planned.primary for planned in plan.ranges] == [B, A, C], "the proposer sees the prompt anyway"
    assert [planned.standby for planned in plan.ranges] == [A, C, B], "spread, next along the chain"
    assert plan.token_ms == pytest.approx(8 + 3 * HOP_MS)
    assert plan.notes == ()


def test_distance_adds_half_a_round_trip_per_hop():
    nodes = {peer: Capacity(1.0, PLENTY) for peer in (A, B)}
    assert make_plan(TINY, nodes, A, rtt_ms=80).token_ms == pytest.approx(8 + 2 * (HOP_MS + 40))


def test_a_single_node_holds_everything_without_a_standby():
    plan = make_plan(TINY, {A: Capacity(2.0, PLENTY)}, A)
    assert layers_of(plan) == [(0, 8)]
    assert plan.ranges[0].standby is None
    assert plan.token_ms == pytest.approx(16), "no hop"
    assert "no standby" in plan.notes[0]


def test_a_proposer_without_room_holds_nothing_and_is_one_hop_away():
    plan = make_plan(TINY, {A: Capacity(1.0, 0), B: Capacity(1.0, PLENTY), C: Capacity(1.0, PLENTY)}, A)
    assert [planned.primary for planned in plan.ranges] == [B, C]
    assert plan.token_ms == pytest.approx(8 + 3 * HOP_MS)
    assert [(refusal.peer, refusal.reason) for refusal in plan.refusals] == [(A, "no room for one layer")]


def test_with_more_nodes_than_layers_the_quickest_take_part():
    size = ModelSize("short", layers=2, layer_bytes=MIB)
    nodes = {A: Capacity(1.0, PLENTY), B: Capacity(9.0, PLENTY), C: Capacity(1.0, PLENTY)}
    plan = make_plan(size, nodes, A)
    assert layers_of(plan) == [(0, 1), (1, 2)]
    assert len({planned.primary for planned in plan.ranges}) == 2


def test_the_ends_go_where_embedding_and_head_fit():
    size = ModelSize("wide", layers=4, layer_bytes=MIB, embedding_bytes=10 * MIB, head_bytes=10 * MIB)
    nodes = {A: Capacity(1.0, 2 * MIB), B: Capacity(1.0, PLENTY), C: Capacity(1.0, PLENTY)}
    plan = make_plan(size, nodes, A)
    assert [planned.primary for planned in plan.ranges] == [B, A, C]


def test_the_cap_of_an_operator_holds_for_standbys_as_well():
    nodes = {A: Capacity(1.0, PLENTY, layers_max=2), B: Capacity(1.0, PLENTY), C: Capacity(1.0, PLENTY)}
    plan = make_plan(TINY, nodes, A)
    assert layers_of(plan) == [(0, 2), (2, 5), (5, 8)]
    assert A not in [planned.standby for planned in plan.ranges]
    assert "allows 2 layers" in plan.ranges[0].reason


@pytest.mark.parametrize(
    ("nodes", "pattern"),
    [
        ({}, r"tiny needs 14 MiB and the 0 nodes asked have 0.00 MiB free: 14 MiB are missing.*1 more node "),
        (
            {A: Capacity(1.0, 4 * MIB)},
            r"needs 14 MiB and the 1 node asked has 4.00 MiB free: 10 MiB are missing",
        ),
        ({A: Capacity(1.0, 4 * MIB), B: Capacity(1.0, 4 * MIB)}, r"6.00 MiB are missing.*2 more nodes"),
        ({A: Capacity(1.0, PLENTY, 3), B: Capacity(1.0, PLENTY, 4)}, r"8 layers and .* allow 7: raise"),
    ],
)
def test_a_model_too_big_for_the_mesh_is_refused_with_what_is_missing(nodes, pattern):
    with pytest.raises(UserError) as refused:
        make_plan(TINY, nodes, A)
    assert re.search(pattern, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


@st.composite
def meshes(draw):
    size = ModelSize(
        "any",
        draw(st.integers(1, 40)),
        draw(st.integers(1, 50)),
        draw(st.integers(0, 200)),
        draw(st.integers(0, 200)),
        draw(st.integers(0, 20)),
    )
    capacities = st.builds(Capacity, st.floats(0, 100), st.integers(0, 2000), st.integers(0, 12))
    peers = st.sampled_from([PeerId(f"peer-{number}") for number in range(12)])
    return size, draw(st.dictionaries(peers, capacities, min_size=1)), draw(peers)


@given(meshes())
def test_a_plan_covers_every_layer_once_within_memory_and_caps(mesh):
    size, nodes, proposer = mesh
    try:
        plan = make_plan(size, nodes, proposer)
    except UserError:
        return
    ends = [0, *(planned.range.end for planned in plan.ranges)]
    assert [planned.range.start for planned in plan.ranges] == ends[:-1]
    assert ends[-1] == size.layers
    primaries = [planned.primary for planned in plan.ranges]
    assert len(set(primaries)) == len(primaries), "one contiguous range per node"
    assert proposer not in primaries[1:] or primaries[0] != proposer
    for peer, capacity in nodes.items():
        held = [each for each in plan.assignments() if each.peer == peer]
        assert sum(size.bytes_of(each.range) for each in held) <= capacity.free_bytes
        assert capacity.layers_max == 0 or sum(each.range.layers for each in held) <= capacity.layers_max
    for planned in plan.ranges:
        assert planned.standby != planned.primary
        assert planned.bytes_needed == size.bytes_of(planned.range)


@given(meshes(), st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_are_listed_does_not_matter(mesh, random):
    size, nodes, proposer = mesh
    shuffled = list(nodes.items())
    random.shuffle(shuffled)

    def outcome(listed):
        try:
            return make_plan(size, listed, proposer)
        except UserError as refused:
            return str(refused)

    assert outcome(nodes) == outcome(dict(shuffled))


# Sizes ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))
def test_the_measured_size_gives_the_bytes_of_any_cut(layers, layer, embedding, head, kv):
    def range_bytes(held):
        ends = (embedding if held.start == 0 else 0) + (head if held.end == layers else 0)
        return held.layers * layer + ends

    size = measure_size("m", layers, range_bytes, lambda held: kv * held.layers, rows_reserved=10)
    cuts = [LayerRange(start, end) for start in range(layers) for end in range(start + 1, layers + 1)]
    assert all(size.bytes_of(cut) == range_bytes(cut) + 10 * kv * cut.layers for cut in cuts)


# Caches in 8 bit -----------------------------------------------------------------------------------------------------


def test_a_node_that_keeps_rows_in_less_memory_takes_more_layers_and_is_asked_for_less():
    rows = 1024
    size = ModelSize("long", layers=6, layer_bytes=MIB, kv_bytes=2 * MIB, kv_row_bytes=2 * MIB // rows)
    plain, rounded = Capacity(1.0, 6 * MIB), Capacity(1.0, 6 * MIB, kv_row_bytes=MIB // rows)
    assert layers_of(make_plan(size, {A: plain, B: plain, C: plain}, A)) == [(0, 2), (2, 4), (4, 6)]
    with pytest.raises(UserError, match="missing"):
        make_plan(size, {A: plain, B: plain}, A)
    plan = make_plan(size, {A: plain, B: rounded, C: rounded}, A)
    asked = {each.primary: (each.range.layers, each.bytes_needed) for each in plan.ranges}
    assert all(needed == layers * (3 if peer is A else 2) * MIB for peer, (layers, needed) in asked.items())
    both = make_plan(size, {B: rounded, C: rounded}, B)
    assert [(each.range.layers, each.bytes_needed) for each in both.ranges] == [(3, 6 * MIB)] * 2
    assert "6.00 MiB of 6.00 MiB free" in both.ranges[0].reason


def test_more_rows_that_are_reserved_are_counted_as_they_lie():
    size = ModelSize("long", layers=2, layer_bytes=MIB, kv_bytes=MIB, kv_row_bytes=1024)
    assert size.reserving(4096).at(Capacity(1.0, 0, kv_row_bytes=520)).kv_bytes == 4096 * 520
    assert size.at(Capacity(1.0, 0)) is size
