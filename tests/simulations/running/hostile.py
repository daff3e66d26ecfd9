"""What workers do to the engine that runs them; importable, since it is run in other processes. `task.scenario` says what."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

from simulations.running.engines import LocalEngine
from simulations.running.outcome import Outcome
from simulations.running.task import Task
from tests.simulations.running.outcomes import outcome


def behave(task: Task) -> Outcome:
    match task.scenario:
        case "dies":
            os._exit(9)
        case "dies once":
            marker = Path(task.text)
            if not marker.exists():
                marker.touch()
                os._exit(9)
        case "hangs":
            signal.pause()
        case "leaves a file":
            Path(tempfile.mkdtemp(), "left").touch()
            os._exit(9)
        case "writes on":
            while True:
                Path(tempfile.mkdtemp(), "more").touch()
        case "raises":
            raise ExceptionGroup("many", [ValueError("no such\nlayer")])
        case "is asked to stop":
            os.kill(os.getpid(), signal.SIGINT)
    return outcome(task.seed)


def _be_killed_in_the_midst() -> None:
    with LocalEngine(2, behave) as engine:
        engine.submit([Task(number, scenario="writes on") for number in range(2)])
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _be_killed_in_the_midst()
