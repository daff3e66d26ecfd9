"""Two runs of one script, compared event by event."""

from __future__ import annotations

import pytest

from protocols.errors import LocalFault
from simulations.running import comparing
from simulations.running.comparing import (
    BEFORE,
    Difference,
    first_difference,
    stream_elsewhere,
    stream_of,
)
from simulations.scenarios.script import NodeSpec, Request, Script

SCRIPT = Script(
    "small",
    7,
    2.0,
    (NodeSpec("n0"), NodeSpec("n1")),
    layers=4,
    requests=(Request(0.1, "n1", "Who is where?", 5),),
)
EVENTS = [f"event {number}".encode() for number in range(100)]


def test_equal_streams_do_not_differ() -> None:
    assert first_difference(EVENTS, list(EVENTS)) is None
    assert first_difference([], []) is None


def test_the_first_event_that_differs_comes_with_those_before_it() -> None:
    other = [*EVENTS[:50], b"another", *EVENTS[51:60], b"and another"]
    difference = first_difference(EVENTS, other)
    before = tuple(f"event {number}" for number in range(50 - BEFORE, 50))
    assert difference == Difference(50, before, "event 50", "another")
    assert str(difference).splitlines()[-3:] == ["    event 49", "1st event 50", "2nd another"]


@pytest.mark.parametrize("is_first_shorter", [True, False])
def test_a_stream_that_ends_early_differs_there(is_first_shorter: bool) -> None:
    streams = (EVENTS[:3], EVENTS[:4])
    difference = first_difference(*(streams if is_first_shorter else streams[::-1]))
    assert difference is not None
    assert (difference.index, difference.one, difference.two) == (
        (3, None, "event 3") if is_first_shorter else (3, "event 3", None)
    )
    assert "(no more events)" in str(difference)


def test_bytes_that_are_no_text_can_be_read_too() -> None:
    difference = first_difference([b"\xff"], [b"\xfe"])
    assert difference is not None
    assert (difference.one, difference.two) == ("\\xff", "\\xfe")


def test_a_script_runs_the_same_in_another_process() -> None:
    assert first_difference(stream_of(SCRIPT), stream_elsewhere(SCRIPT)) is None


def test_what_differs_between_the_processes_is_found() -> None:
    events = stream_of(SCRIPT)
    difference = first_difference([*events[:10], b"only here", *events[10:]], stream_elsewhere(SCRIPT))
    assert difference is not None
    assert (difference.index, difference.one) == (10, "only here")


def test_a_second_run_that_fails_is_a_fault_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing.sys, "executable", "/bin/false")
    with pytest.raises(LocalFault, match="the second run failed"):
        stream_elsewhere(SCRIPT)
