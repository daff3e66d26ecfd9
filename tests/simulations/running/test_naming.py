"""What a script without some of its nodes still names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.running.naming import strangers, without
from simulations.scenarios.faults import Crash, Partition, Pause, Reset, SlowLink
from simulations.scenarios.script import Request
from tests.simulations.running.scripts import NAMES, a_script, scripts


@given(scripts, st.sets(st.sampled_from(NAMES)))
def test_what_is_left_names_only_nodes_that_are_left(script, gone):
    left = without(script, gone)
    assert strangers(left) == ()
    assert [node.name for node in left.nodes] == [name for name in NAMES if name not in gone]


@given(scripts)
def test_without_nobody_a_script_stays_as_it_is(script):
    assert without(script, ()) == script


def test_a_partition_loses_a_member_and_goes_with_its_second_last_group():
    script = a_script()
    assert Partition(10.0, (("n0",), ("n2", "n3")), 8.0) in without(script, ["n1"]).faults
    assert not any(isinstance(fault, Partition) for fault in without(script, ["n2", "n3"]).faults)


def test_a_one_way_partition_does_not_turn_round_when_its_first_group_is_gone():
    cut = Partition(1.0, (("n1",), ("n2",), ("n3",)), 5.0, one_way=True)
    assert without(a_script(faults=(cut,)), ["n1"]).faults == ()
    assert without(a_script(faults=(cut,)), ["n2"]).faults == (
        Partition(1.0, (("n1",), ("n3",)), 5.0, one_way=True),
    )


def test_links_requests_and_core_go_with_their_node():
    left = without(a_script(offer_on=("n2", "n3")), ["n2"])
    assert left.offer_on == ("n3",)
    assert [(link.one, link.two) for link in left.links] == [("zone:here", "*")]
    assert [request.entry for request in left.requests] == ["n1", "n3"]
    assert left.core == ("n0",)


@pytest.mark.parametrize(
    "changes",
    [
        {"faults": (Crash(1.0, "x"),)},
        {"faults": (Pause(1.0, "x", 1.0),)},
        {"faults": (Reset(1.0, "n0", "x"),)},
        {"faults": (SlowLink(1.0, "n0", 1.0, "x"),)},
        {"faults": (Partition(1.0, (("n0",), ("n1", "x")), 1.0),)},
        {"requests": (Request(1.0, "x", "hi", 1),)},
        {"core": ("x",)},
        {"offer_on": ("x",)},
    ],
)
def test_a_name_that_no_node_has_is_found_wherever_it_stands(changes):
    assert strangers(a_script()) == ()
    assert strangers(a_script(**changes)) == ("x",)
