from __future__ import annotations

import pytest

from simulations.running import run
from simulations.running.carrying_out import carry_out, script_of
from simulations.running.task import Task
from simulations.scenarios.scenario import read
from simulations.scenarios.script import NodeSpec, Script
from tests.simulations.running.outcomes import outcome

SCRIPT = Script("kept", 4, 5.0, (NodeSpec("n0"),))


def drawn(name: str) -> Task:
    return Task(9, None, name, read(name)[1].decode(), 9, 12, 2.0)


def test_a_scenario_is_drawn_as_asked_and_a_script_taken_as_it_is() -> None:
    script = script_of(drawn("steady"))
    assert (script.scenario, script.seed, len(script.nodes), script.duration_s) == ("steady", 9, 12, 120.0)
    assert script_of(Task(1, SCRIPT)) is SCRIPT


def test_a_task_runs_at_the_level_of_its_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Script] = []
    monkeypatch.setattr(run, "run_at_world_level", lambda script, *_, **__: ran.append(script) or outcome(1))
    carry_out(drawn("world-churn"))
    assert [script.scenario for script in ran] == ["world-churn"]
    assert carry_out(Task(1, SCRIPT)).scenario == "kept"
    assert len(ran) == 1
