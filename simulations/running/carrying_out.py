"""What a process or machine does with a task that it is handed."""

from __future__ import annotations

from simulations.running.outcome import Outcome
from simulations.running.run import run_script
from simulations.running.task import Task
from simulations.scenarios.drawing import draw
from simulations.scenarios.scenario import parse
from simulations.scenarios.script import Script


def carry_out(task: Task) -> Outcome:
    """In this thread."""
    return run_script(script_of(task))


def script_of(task: Task) -> Script:
    """Raises `UserError` if the scenario can't be had that way."""
    if task.script is not None:
        return task.script
    return draw(parse(task.scenario, task.text.encode()), task.seed, task.nodes, task.minutes)
