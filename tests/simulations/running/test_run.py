"""Real runs of small scripts: what an outcome tells, and how runs end that go wrong."""

from __future__ import annotations

import os
import signal
from itertools import pairwise

import pytest
import trio

from simulations.cluster import cluster as cluster_module
from simulations.invariants.observer import Observer
from simulations.running import run as run_module
from simulations.running.outcome import Violation
from simulations.running.run import LOOK_S, run_script
from simulations.scenarios.faults import Crash, Pause
from simulations.scenarios.script import Expectations, LinkSpec, NodeSpec, Request, Script
from simulations.trace import Trace


def small(**changes):
    fields = {
        "scenario": "small",
        "seed": 3,
        "duration_s": 4.0,
        "nodes": (NodeSpec("n0"), NodeSpec("n1")),
        "layers": 2,
        "requests": (Request(0.5, "n1", "hi", 8),),
    }
    return Script(**(fields | changes))


LONG = small(
    nodes=tuple(NodeSpec(f"n{index}") for index in range(4)),
    layers=4,
    duration_s=12.0,
    requests=(Request(0.5, "n0", "hi", 200), Request(6.0, "n0", "hi", 400)),
    faults=(Crash(2.0, "n2"), Pause(3.0, "n3", 1.0)),
)


def test_an_outcome_tells_of_requests_failovers_detections_and_marks():
    outcome = run_script(LONG)
    first, second = outcome.requests
    assert outcome.violations == ()
    assert (first.status, first.is_exact, len(first.token_at_s)) == ("finished", True, 200)
    assert (second.status, second.is_exact) == ("unfinished", True)
    assert second.began_s < second.ended_s == outcome.virtual_s
    assert [mark.label for mark in outcome.marks] == ["crash of n2", "pause of n3"]
    assert outcome.marks[1].until_s - outcome.marks[1].at_s == pytest.approx(1.0)
    crashed_s = outcome.marks[0].at_s
    assert [each.lost for each in first.failovers if each.lost == "n2"]
    assert all(each.pause_s > 0 and each.at_s >= crashed_s and each.to for each in first.failovers)
    (detection,) = [each for each in outcome.detections if each.node == "n2"]
    assert detection.down_at_s == crashed_s < detection.first_s
    assert outcome.wall_s > 0
    assert outcome.tail == ()


def test_watching_a_run_changes_nothing_in_it():
    seen, logged, traced = [], [], []
    watched = run_script(small(), trace=Trace(traced.append), on_progress=seen.append, on_log=logged.append)
    unwatched = run_script(small())
    assert watched.digest == unwatched.digest
    assert watched.events == unwatched.events
    assert run_script(small(seed=4)).digest != watched.digest
    assert [later.at_s - sooner.at_s for sooner, later in pairwise(seen)] == pytest.approx(
        [LOOK_S] * (len(seen) - 1)
    )
    assert seen[-1].at_s == pytest.approx(seen[-1].until_s)
    assert seen[-1].until_s == pytest.approx(watched.virtual_s)
    assert {progress.sessions for progress in seen} == {0, 1}
    assert all("event" in fields and "level" in fields for fields in logged)
    assert traced


def test_a_mesh_that_does_not_come_up_is_told_so(monkeypatch):
    monkeypatch.setattr(cluster_module, "UP_WITHIN_S", 20.0)
    outcome = run_script(small(links=(LinkSpec("*", "*", 500_000.0),)))
    (violation,) = outcome.violations
    assert violation.invariant == "up"
    assert "n0" in violation.detail
    assert outcome.requests == ()
    assert outcome.tail


def test_what_was_promised_is_held_against_a_whole_run_only(monkeypatch):
    promising = small(expect=Expectations(finished_share=1.0), requests=(Request(3.5, "n1", "hi", 4000),))
    assert [miss.partition(":")[0] for miss in run_script(promising).missed] == ["finished_share"]
    finds_at(monkeypatch, 1.0)
    assert run_script(promising).missed == ()


def finds_at(monkeypatch, *times_s):
    """Observers that find something at these times after the first look."""
    look = Observer.look

    def find(self):
        self.began_s = getattr(self, "began_s", trio.current_time())
        look(self)
        found = len(self.violations)
        if found < len(times_s) and trio.current_time() - self.began_s >= times_s[found] - 1e-9:
            self.violations.append(Violation("S0", "Nothing.", trio.current_time(), ("n1",), "x"))

    monkeypatch.setattr(Observer, "look", find)


def test_a_run_stops_at_the_first_violation_unless_it_is_to_go_on(monkeypatch):
    finds_at(monkeypatch, 1.0, 2.0)
    stopped = run_script(small())
    (violation,) = stopped.violations
    assert violation.at_s <= stopped.virtual_s <= violation.at_s + LOOK_S + 0.01
    assert stopped.tail
    assert all("n1" in line for line in stopped.tail)
    whole = run_script(small(), stop_at_first=False)
    assert len(whole.violations) == 2
    assert whole.virtual_s > stopped.virtual_s + 2


def test_an_error_of_the_harness_is_a_violation_with_its_place(monkeypatch):
    def fail(self):
        raise ZeroDivisionError("of no node")

    monkeypatch.setattr(Observer, "look", fail)
    outcome = run_script(small())
    (violation,) = outcome.violations
    assert violation.invariant == "harness"
    assert violation.at_s > 0
    assert "ZeroDivisionError: of no node" in violation.detail
    assert outcome.digest


def test_a_node_that_works_for_ever_does_not_hang_the_run(monkeypatch):
    class Busy(Observer):
        async def run(self):
            await trio.sleep(1)
            while True:
                await trio.lowlevel.checkpoint()

    monkeypatch.setattr(run_module, "Observer", Busy)
    outcome = run_script(small())
    (violation,) = outcome.violations
    assert violation.invariant == "L7"
    assert "Busy.run" in violation.detail


def test_an_interrupt_while_the_mesh_comes_up_ends_the_run(monkeypatch):
    class Interrupting(cluster_module.Cluster):
        async def start(self):
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep(1)
            await super().start()

    monkeypatch.setattr(run_module, "Cluster", Interrupting)
    outcome = run_script(small())
    assert outcome.interrupted
    assert (outcome.violations, outcome.missed, outcome.requests) == ((), (), ())
