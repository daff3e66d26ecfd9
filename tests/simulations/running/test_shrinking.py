"""Shrinking against oracles that run nothing."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from simulations.running.naming import strangers
from simulations.running.shrinking import ddmin, shrink
from simulations.scenarios.faults import Crash, Pause
from tests.simulations.running.scripts import a_script, scripts


@given(st.lists(st.integers(), unique=True, max_size=40), st.data())
def test_ddmin_finds_exactly_the_culprits_where_more_of_them_can_not_help(items, data):
    culprits = set(data.draw(st.lists(st.sampled_from(items), max_size=5))) if items else set()
    found = ddmin(tuple(items), lambda some: culprits <= set(some))
    assert found == tuple(item for item in items if item in culprits)


@given(st.integers(0, 20), st.integers(0, 2**32))
def test_whatever_the_oracle_ddmin_ends_with_something_that_fails_and_of_which_nothing_can_go(count, salt):
    items = tuple(range(count))

    def fails(some):
        return some == items or hash((some, salt)) % 3 == 0

    found = ddmin(items, fails)
    assert fails(found)
    if found:
        assert not any(fails(found[:index] + found[index + 1 :]) for index in range(len(found)))


def test_ddmin_takes_far_fewer_questions_than_there_are_parts():
    asked = []

    def fails(some):
        asked.append(some)
        return {3, 700} <= set(some)

    assert ddmin(tuple(range(1000)), fails) == (3, 700)
    assert len(asked) < 150


@given(scripts, st.data())
def test_the_faults_that_matter_stay_and_nothing_else_does(script, data):
    kinds = [(type(fault), fault.at_s) for fault in script.faults]
    culprits = Counter(data.draw(st.lists(st.sampled_from(kinds), max_size=3, unique=True)) if kinds else ())

    def fails(some):
        assert strangers(some) == ()
        return culprits <= Counter((type(fault), fault.at_s) for fault in some.faults)

    shrunk = shrink(script, fails, runs_max=10_000)
    assert shrunk.is_minimal
    assert Counter((type(fault), fault.at_s) for fault in shrunk.script.faults) == culprits
    assert shrunk.script.requests == ()


def test_a_script_shrinks_in_all_its_parts():
    def fails(some):
        return (
            any(isinstance(fault, Pause) and fault.for_s >= 0.5 for fault in some.faults)
            and any(request.tokens >= 5 for request in some.requests)
            and some.duration_s >= 23
        )

    shrunk = shrink(a_script(), fails)
    assert shrunk.is_minimal
    (pause,) = shrunk.script.faults
    (request,) = shrunk.script.requests
    assert (pause.node, pause.for_s) == ("n2", 0.75)
    assert request.tokens == 5
    assert {node.name for node in shrunk.script.nodes} == {"n2", request.entry}
    assert shrunk.script.links == ()
    assert 23 <= shrunk.script.duration_s < 27
    assert shrunk.script.settled_at_s is None


def test_a_script_keeps_a_node_even_if_none_is_needed():
    shrunk = shrink(a_script(), lambda some: True)
    assert len(shrunk.script.nodes) == 1
    assert (shrunk.script.faults, shrunk.script.requests, shrunk.script.duration_s) == ((), (), 1.0)


def test_what_settles_before_the_end_still_does():
    def fails(some):
        return some.settled_at_s == 40.0

    assert shrink(a_script(), fails).script.duration_s < 46


@given(st.integers(0, 30))
def test_the_bound_on_runs_holds_and_the_best_so_far_comes_back(runs_max):
    asked = []

    def fails(some):
        asked.append(some)
        return any(isinstance(fault, Crash) for fault in some.faults)

    shrunk = shrink(a_script(), fails, runs_max)
    assert len(asked) == shrunk.runs <= runs_max
    assert len(asked) == len(set(asked))
    assert any(isinstance(fault, Crash) for fault in shrunk.script.faults)
    assert shrunk.is_minimal or shrunk.runs == runs_max


def test_two_times_the_same_and_told_before_each_run():
    told = []

    def fails(some):
        return any(fault.at_s == 25.0 for fault in some.faults)

    first = shrink(a_script(), fails, on_try=lambda runs, smallest: told.append((runs, len(smallest.faults))))
    assert shrink(a_script(), fails) == first
    assert [runs for runs, _ in told] == list(range(first.runs))
    assert sorted((faults for _, faults in told), reverse=True) == [faults for _, faults in told]
