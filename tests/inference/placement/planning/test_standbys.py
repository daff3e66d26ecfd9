"""Standbys: of the kind that policy, disk and memory allow, elsewhere than the primary, with the pause to expect."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.placement.planning.plan import (
    Goal,
    Link,
    LinkTable,
    ModelSize,
    NodeView,
    StandbyPolicy,
    Strategy,
)
from inference.placement.planning.planner import make_plan
from inference.placement.planning.standbys import ATTACH_MS, DETECT_MS, RESERVE_SHARE
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.limits import MIB
from protocols.placement import Capacity, LayerRange, StandbyKind

A, B, C, D = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABCD")
SIZE = ModelSize("four", layers=4, layer_bytes=10 * MIB, kv_bytes=2 * MIB)
PLENTY = 1 << 40
HALF_BYTES = 2 * 12 * MIB  # two layers with KV


def view(free_bytes=PLENTY, disk_bytes=PLENTY, domain="", **rest):
    return NodeView(Capacity(1.0, free_bytes), disk_free_bytes=disk_bytes, domain=domain, **rest)


def kinds(plan):
    return [[(standby.peer, standby.kind.value) for standby in planned.standbys] for planned in plan.ranges]


def plan_with(policy, nodes, replicas=2, entry=A, links=None):
    return make_plan(SIZE, nodes, entry, Goal(replicas=replicas, standby=policy), links)


# Kinds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "free_bytes", "disk_bytes", "kind"),
    [
        (StandbyPolicy.AUTO, PLENTY, PLENTY, "mapped"),
        (StandbyPolicy.AUTO, PLENTY, None, "hot"),
        (StandbyPolicy.AUTO, PLENTY, 39 * MIB, "cold"),  # 20 MiB for its own range, 20 MiB for the other's
        (StandbyPolicy.AUTO, PLENTY, 40 * MIB, "mapped"),
        (StandbyPolicy.AUTO, 2 * HALF_BYTES, None, "cold"),  # a reserve is left alone
        (StandbyPolicy.AUTO, 2 * HALF_BYTES - 1, PLENTY, None),  # no memory to serve it with
        (StandbyPolicy.HOT, PLENTY, PLENTY, "hot"),
        (StandbyPolicy.HOT, 2 * HALF_BYTES, None, "hot"),
        (StandbyPolicy.HOT, PLENTY, 39 * MIB, None),
        (StandbyPolicy.HOT, 2 * HALF_BYTES - 1, None, None),
        (StandbyPolicy.MAPPED, PLENTY, None, "mapped"),
        (StandbyPolicy.MAPPED, PLENTY, 39 * MIB, None),
        (StandbyPolicy.COLD, PLENTY, PLENTY, "cold"),
        (StandbyPolicy.NONE, PLENTY, PLENTY, None),
    ],
)
def test_the_kind_follows_from_policy_disk_and_memory(policy, free_bytes, disk_bytes, kind):
    nodes = {peer: view(free_bytes, disk_bytes) for peer in (A, B)}
    plan = plan_with(policy, nodes)
    expected = [[(B, kind)], [(A, kind)]] if kind else [[], []]
    assert kinds(plan) == expected


def test_the_reserve_is_what_it_says():
    """The most that hot standbys may fill of a node, to the byte."""
    for free_bytes in range(2 * HALF_BYTES, 3 * HALF_BYTES, MIB):
        nodes = {peer: view(free_bytes, None) for peer in (A, B)}
        is_hot = kinds(plan_with(StandbyPolicy.AUTO, nodes))[0] == [(B, "hot")]
        assert is_hot == (free_bytes - 2 * HALF_BYTES >= int(RESERVE_SHARE * free_bytes))


def test_only_hot_standbys_take_memory_and_cold_ones_are_not_assigned():
    nodes = {A: view(), B: view(disk_bytes=None), C: view(disk_bytes=30 * MIB)}
    plan = plan_with(StandbyPolicy.AUTO, nodes, replicas=3)
    standbys = [standby for planned in plan.ranges for standby in planned.standbys]
    assert {standby.kind for standby in standbys} == set(StandbyKind)
    for planned, standby in ((each, standby) for each in plan.ranges for standby in each.standbys):
        assert standby.promoted_bytes == SIZE.bytes_of(planned.range)
        assert standby.bytes_needed == (standby.promoted_bytes if standby.kind is StandbyKind.HOT else 0)
    assigned = [(each.peer, each.kind) for each in plan.standbys()]
    ready = [(each.peer, each.kind) for each in standbys if each.kind is not StandbyKind.COLD]
    assert assigned == ready


def test_a_hot_standby_leaves_the_memory_that_a_promise_needs():
    """C has promised to load two layers when it must, so what it has beside them does not carry a third."""
    size = ModelSize("three", layers=3, layer_bytes=10 * MIB, kv_bytes=2 * MIB)
    quick = {A: NodeView(Capacity(1.0, 24 * MIB)), B: NodeView(Capacity(1.0, 12 * MIB))}
    slow = NodeView(Capacity(99.0, 26 * MIB))
    plan = make_plan(size, quick | {C: slow}, A, Goal(Strategy.INTERACTIVE))
    assert [planned.range.layers for planned in plan.ranges] == [2, 1]
    assert kinds(plan) == [[(C, "cold")], [(C, "cold")]]


def test_the_cap_of_an_operator_counts_standbys_of_every_kind():
    for disk_bytes in (PLENTY, None):
        nodes = {
            A: view(),
            B: NodeView(Capacity(1.0, PLENTY, layers_max=3), disk_free_bytes=disk_bytes),
        }
        assert kinds(plan_with(StandbyPolicy.AUTO, nodes)) == [[], [(A, "mapped")]]


# Where ---------------------------------------------------------------------------------------------------------------


def test_a_standby_lies_in_another_failure_domain_if_it_can():
    nodes = {A: view(domain="attic"), B: view(domain="attic"), C: view(domain="cellar")}
    plan = plan_with(StandbyPolicy.AUTO, nodes)
    assert [planned.primary for planned in plan.ranges] == [A, B, C]
    assert kinds(plan) == [[(C, "mapped")], [(C, "mapped")], [(A, "mapped")]]


def test_a_standby_in_the_same_domain_is_better_than_none():
    nodes = {peer: view(domain="attic") for peer in (A, B)}
    assert kinds(plan_with(StandbyPolicy.AUTO, nodes)) == [[(B, "mapped")], [(A, "mapped")]]


def test_nodes_that_name_no_domain_are_each_their_own():
    nodes = {peer: view() for peer in (A, B, C)}
    plan = plan_with(StandbyPolicy.AUTO, nodes)
    assert kinds(plan) == [[(B, "mapped")], [(C, "mapped")], [(A, "mapped")]], "spread, next along the chain"


def test_replicas_lie_on_as_many_nodes_and_in_as_many_domains():
    nodes = {A: view(domain="x"), B: view(domain="x"), C: view(domain="y"), D: view(domain="z")}
    plan = plan_with(StandbyPolicy.AUTO, nodes, replicas=3)
    for planned in plan.ranges:
        peers = [planned.primary, *(standby.peer for standby in planned.standbys)]
        assert len(set(peers)) == 3
        assert {nodes[peer].domain for peer in peers} == {"x", "y", "z"}
    assert all(planned.standby == planned.standbys[0].peer for planned in plan.ranges)


def test_one_replica_is_the_primary_alone():
    plan = plan_with(StandbyPolicy.AUTO, {A: view(), B: view()}, replicas=1)
    assert kinds(plan) == [[], []]
    assert "as was asked" in plan.notes[0]


@pytest.mark.parametrize("replicas", [0, 5])
def test_more_replicas_than_make_sense_are_refused(replicas):
    with pytest.raises(UserError, match="ask for 1 to 4"):
        plan_with(StandbyPolicy.AUTO, {A: view()}, replicas=replicas)


# The pause -----------------------------------------------------------------------------------------------------------


def test_the_pause_is_noticing_taking_over_fetching_and_loading():
    half = LayerRange(2, 4)
    nodes = {A: view(), B: view(weights_bytes_s=20 * MIB)}
    links = LinkTable(default=Link(1.0, 10 * MIB))
    bare_ms = DETECT_MS + ATTACH_MS

    def pause(policy, **changed):
        plan = plan_with(policy, nodes | {B: view(weights_bytes_s=20 * MIB, **changed)}, links=links)
        (standby,) = plan.ranges[0].standbys
        assert standby.peer == B
        return standby

    assert pause(StandbyPolicy.HOT).pause_ms == pytest.approx(bare_ms)
    assert pause(StandbyPolicy.MAPPED).pause_ms == pytest.approx(bare_ms + 1000), "20 MiB at 20 MiB/s"
    assert pause(StandbyPolicy.COLD).pause_ms == pytest.approx(bare_ms + 1000 + 2000), (
        "at 10 MiB/s on the way"
    )
    assert pause(StandbyPolicy.COLD, holds=(half,)).pause_ms == pytest.approx(bare_ms + 3000), (
        "of the other half"
    )
    has_half = pause(StandbyPolicy.COLD, holds=(LayerRange(0, 1),))
    assert has_half.pause_ms == pytest.approx(bare_ms + 1000 + 1000), "10 MiB are there"
    assert has_half.reason == "0.25 s to notice, 0.25 s to take over, 1 s to fetch weights, 1 s to load them"
    assert "2 s" not in pause(StandbyPolicy.HOT).reason


# The entry as the last resort ----------------------------------------------------------------------------------------


def test_the_entry_serves_a_lost_range_itself_if_it_fits():
    nodes = {A: view(), B: view(PLENTY), C: view(HALF_BYTES)}
    plan = plan_with(StandbyPolicy.NONE, nodes)
    assert plan.entry_serves_if_lost
    assert re_found(plan.notes, "the entry serves it itself")
    assert re_found(
        plan.notes, "1 of 3 ranges have no standby, as was asked: if its holder is lost, so is the session"
    )


def test_an_entry_without_room_for_a_lost_range_says_that_the_session_is_lost():
    nodes = {A: view(12 * MIB), B: view(HALF_BYTES), C: view(HALF_BYTES)}
    plan = plan_with(StandbyPolicy.NONE, nodes)
    assert not plan.entry_serves_if_lost
    assert re_found(plan.notes, "so is the session")
    assert not re_found(plan.notes, "the entry serves it itself")


def test_an_entry_that_holds_everything_rescues_nothing():
    plan = plan_with(StandbyPolicy.AUTO, {A: view()})
    assert not plan.entry_serves_if_lost
    assert re_found(plan.notes, "no other node has room")


def test_too_few_standbys_are_told_of():
    plan = plan_with(StandbyPolicy.AUTO, {A: view(), B: view()}, replicas=3)
    assert re_found(plan.notes, "2 of 2 ranges have fewer than 2 standbys")


def re_found(notes, text):
    return any(text in note for note in notes)


# Whatever the mesh ---------------------------------------------------------------------------------------------------


@st.composite
def meshes(draw):
    size = ModelSize(
        "any", draw(st.integers(1, 12)), draw(st.integers(1, 20)), kv_bytes=draw(st.integers(0, 5))
    )
    views = st.builds(
        NodeView,
        st.builds(Capacity, st.floats(0.1, 9), st.integers(0, 400), st.sampled_from([0, 0, 2, 9])),
        score=st.floats(0, 1),
        load=st.floats(0, 1),
        domain=st.sampled_from(["", "x", "y"]),
        disk_free_bytes=st.none() | st.integers(0, 400),
    )
    peers = st.sampled_from([PeerId(f"peer-{number:02}") for number in range(8)])
    goal = Goal(replicas=draw(st.integers(1, 4)), standby=draw(st.sampled_from(list(StandbyPolicy))))
    return size, draw(st.dictionaries(peers, views, min_size=2)), draw(peers), goal


@given(meshes())
def test_standbys_never_lie_where_their_range_does_nor_take_more_than_there_is(mesh):
    size, views, entry, goal = mesh
    try:
        plan = make_plan(size, views, entry, goal)
    except UserError:
        return
    for planned in plan.ranges:
        holders = [planned.primary, *(standby.peer for standby in planned.standbys)]
        assert len(set(holders)) == len(holders) <= goal.replicas
        for standby in planned.standbys:
            assert goal.standby in ("auto", standby.kind.value)
    for peer, seen in views.items():
        held = [each for each in plan.assignments() if each.peer == peer]
        hot_bytes = sum(each.bytes_needed for each in held)
        layers = sum(each.range.layers for each in held)
        assert hot_bytes <= seen.capacity.free_bytes
        assert not seen.capacity.layers_max or layers <= seen.capacity.layers_max
        if seen.disk_free_bytes is not None:
            assert sum(size.weight_bytes(each.range) for each in held) <= seen.disk_free_bytes
        promoted = [
            standby.promoted_bytes
            for planned in plan.ranges
            for standby in planned.standbys
            if standby.peer == peer and standby.kind is not StandbyKind.HOT
        ]
        assert hot_bytes + max(promoted, default=0) <= seen.capacity.free_bytes, (
            "it can serve what it promised"
        )


@given(meshes())
def test_a_free_node_in_another_domain_is_never_passed_over_for_one_in_the_same(mesh):
    size, views, entry, _goal = mesh
    roomy = {
        peer: NodeView(Capacity(1.0, PLENTY), domain=seen.domain, disk_free_bytes=PLENTY)
        for peer, seen in views.items()
    }
    plan = make_plan(size, roomy, entry)
    for planned, peer in itertools.product(plan.ranges, roomy):
        own, chosen = roomy[planned.primary].domain, roomy[planned.standbys[0].peer].domain
        if own and own == chosen:
            assert roomy[peer].domain == own


def test_a_standby_takes_what_its_own_caches_take():
    size = ModelSize("four", layers=4, layer_bytes=10 * MIB, kv_bytes=2 * MIB, kv_row_bytes=2048)
    for kv_row_bytes, layer_bytes in ((0, 12 * MIB), (1024, 11 * MIB)):
        nodes = {peer: NodeView(Capacity(1.0, 4 * layer_bytes, kv_row_bytes=kv_row_bytes)) for peer in (A, B)}
        plan = make_plan(size, nodes, A, Goal(standby=StandbyPolicy.HOT))
        assert [each.bytes_needed for each in plan.standbys()] == [2 * layer_bytes] * 2
        nodes = {
            peer: NodeView(Capacity(1.0, 4 * layer_bytes - 1, kv_row_bytes=kv_row_bytes)) for peer in (A, B)
        }
        assert make_plan(size, nodes, A, Goal(standby=StandbyPolicy.HOT)).standbys() == ()
