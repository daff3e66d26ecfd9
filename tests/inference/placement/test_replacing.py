"""Planning where some of the model is held already: make before break, or a sentence."""

from __future__ import annotations

import pytest

from inference.placement.planning.plan import Goal, ModelSize, StandbyPolicy
from inference.placement.replacing import PlainOutlook, Replacing
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.placement import Capacity, LayerRange

A, B, C = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABC")
SIZE = ModelSize("tiny", layers=6, layer_bytes=10)
BARE = Goal(standby=StandbyPolicy.NONE)


def planned(capacities, goal=BARE):
    return Replacing(SIZE, A, goal, PlainOutlook()).plan(capacities)


def holding(held, free_bytes=0, **capacity):
    return Capacity(1.0, free_bytes, held=held, held_bytes=sum(each.layers for each in held) * 10, **capacity)


def test_what_stays_as_it_is_needs_no_room_beside_itself():
    capacities = {A: holding((LayerRange(0, 3),)), B: holding((LayerRange(3, 6),))}
    plan = planned(capacities)
    assert [(each.primary, str(each.range)) for each in plan.ranges] == [(A, "0-2"), (B, "3-5")]
    assert not any("beside" in note for note in plan.notes)


def test_where_both_have_room_the_old_ranges_count_as_free():
    capacities = {A: holding((LayerRange(0, 6),), 20), B: Capacity(1.0, 100), C: Capacity(1.0, 100)}
    plan = planned(capacities)
    assert [each.range.layers for each in plan.ranges] == [2, 2, 2]
    assert not any("beside" in note for note in plan.notes)


def test_where_there_is_no_room_for_both_only_what_is_free_counts_and_the_plan_says_so():
    capacities = {A: holding((LayerRange(0, 6),), 10), B: Capacity(1.0, 100), C: Capacity(1.0, 100)}
    plan = planned(capacities)
    counts = {each.primary: each.range.layers for each in plan.ranges}
    assert counts[A] <= 1
    assert any("'weft withdraw' frees those first" in note for note in plan.notes)


def test_a_cap_counts_old_and_new_together_until_the_old_are_gone():
    held = {"held": (LayerRange(0, 4),), "held_bytes": 40, "held_layers": 4, "layers_max": 4}
    plan = planned({A: Capacity(1.0, 1000, **held), B: Capacity(1.0, 1000), C: Capacity(1.0, 1000)})
    assert A not in {each.primary for each in plan.ranges}


def test_too_little_beside_the_old_ranges_is_said_with_what_would_free_them():
    capacities = {A: holding((LayerRange(0, 6),)), B: Capacity(1.0, 10)}
    with pytest.raises(UserError, match=r"is held already.*'weft withdraw' frees"):
        planned(capacities)


def test_nodes_that_hold_nothing_are_refused_as_ever():
    with pytest.raises(UserError, match=r"^tiny needs"):
        planned({A: Capacity(1.0, 10)})
