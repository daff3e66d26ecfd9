from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from simulations.running.engines import Done, Ended, Engine, Failed, LocalEngine
from simulations.running.task import Task
from tests.simulations.running import hostile
from tests.simulations.running.hostile import behave
from tests.simulations.running.outcomes import outcome


def all_ended(engine: Engine, tasks: Sequence[Task]) -> dict[int, Ended]:
    engine.submit(tasks)
    found: list[Ended] = []
    while len(found) < len(tasks):
        found += engine.ended(60)
    assert engine.ended(0) == []
    assert len({each.number for each in found}) == len(found)
    return {each.number: each for each in found}


def test_every_task_ends_once_whatever_its_process_does(tmp_path: Path) -> None:
    kinds = ("", "dies once", "raises", "is asked to stop", "dies", "")
    tasks = [
        Task(n, scenario=kind, text=str(tmp_path / "died"), seed=100 + n) for n, kind in enumerate(kinds)
    ]
    with LocalEngine(2, behave) as engine:
        ended = all_ended(engine, tasks)
    assert ended == {
        0: Done(0, outcome(100)),
        1: Done(1, outcome(101)),
        2: Failed(2, "it raised ValueError: no such layer"),
        3: Done(3, outcome(103)),
        4: Failed(4, "its process died 2 times (out of memory?)"),
        5: Done(5, outcome(105)),
    }
    assert (tmp_path / "died").exists()


def test_a_task_that_takes_too_long_is_ended_and_the_next_one_runs() -> None:
    with LocalEngine(1, behave, limit_s=0.5) as engine:
        engine.submit([Task(0, scenario="hangs")])
        assert engine.ended(0) == []
        assert engine.ended(60) == [Failed(0, "it took longer than 0.5 s of wall-clock time and was ended")]
    with LocalEngine(1, behave) as engine:
        assert all_ended(engine, [Task(1, seed=7)]) == {1: Done(1, outcome(7))}


def test_leaving_ends_what_runs() -> None:
    with LocalEngine(1, behave) as engine:
        engine.submit([Task(0, scenario="hangs"), Task(1)])
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []
    assert engine.ended(0) == []


def test_what_a_killed_process_leaves_on_disk_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with LocalEngine(1, behave) as engine:
        all_ended(engine, [Task(0, scenario="leaves a file")])
        assert list(tmp_path.rglob("left"))
    assert list(tmp_path.iterdir()) == []


def test_workers_of_a_killed_parent_end_and_leave_nothing_on_disk(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", hostile.__name__],
        stdout=subprocess.PIPE,  # which the worker holds too: it is read until both have ended
        env=os.environ | {"TMPDIR": str(tmp_path)},
        check=False,
        timeout=60,
    )
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"")
    assert list(tmp_path.iterdir()) == []
