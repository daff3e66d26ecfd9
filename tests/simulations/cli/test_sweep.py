from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Self

import msgspec
import pytest

from node.cli.main import run
from protocols.exit_codes import ExitCode
from simulations.cli import sweep as sweep_command
from simulations.running.engines import Ended
from simulations.running.outcome import Outcome
from simulations.running.store import read_store
from simulations.running.task import Task
from tests.simulations.running.hostile import behave

SCENARIO = """
format = 1
summary = "Nothing happens."
duration_s = 10
[nodes]
count = 2
[workload]
sessions = 1
rest_s = 2
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of one that is run in no time, in this process."""
    monkeypatch.setattr(sweep_command, "LocalEngine", InstantEngine)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiet.toml").write_text(SCENARIO)
    return "./quiet.toml"


class InstantEngine:
    """One task at each look. `interrupted_by` is the seed at which an operator presses Ctrl-C; odd seeds above 100 break."""

    interrupted_by: int | None = None

    def __init__(self, jobs: int, work: object, limit_s: float) -> None:
        self._tasks: list[Task] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, tasks: list[Task]) -> None:
        self._tasks = list(tasks)

    def ended(self, within_s: float) -> list[Ended]:
        from simulations.running.engines import Done, Failed

        task = self._tasks.pop(0)
        if task.seed == self.interrupted_by:
            os.kill(os.getpid(), signal.SIGINT)
        if task.seed > 100 and task.seed % 2:
            return [Failed(task.number, "it hung")]
        return [Done(task.number, behave(Task(task.number, seed=task.seed)))]


def test_a_sweep_is_kept_summed_up_and_made_a_page_of(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "sweep", scenario, "--seeds", "3", "--from", "5"]) == ExitCode.OK
    said = capsys.readouterr()
    assert said.out.startswith("quiet: 3 seeds, 6.0 min of virtual time\n")
    assert "3 of 3 seeds" in said.err
    assert "'weft sim report sweeps/quiet' makes a page of it" in said.err
    assert sorted(read_store(Path("sweeps/quiet")).results) == [5, 6, 7]
    assert run(["sim", "report", "sweeps/quiet"]) == ExitCode.OK
    assert capsys.readouterr().out == "sweeps/quiet/report.html\n"
    assert "<h1>quiet</h1>" in Path("sweeps/quiet/report.html").read_text()


def test_an_interrupt_tells_how_to_go_on_and_going_on_runs_the_rest(
    scenario: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["sim", "sweep", scenario, "--seeds", "6", "--out", "my sweep"]
    monkeypatch.setattr(InstantEngine, "interrupted_by", 2)
    assert run([*arguments, "--fresh"]) == ExitCode.INTERRUPTED
    assert "Go on with: weft sim sweep ./quiet.toml --seeds 6 --out 'my sweep'\n" in capsys.readouterr().err
    assert sorted(read_store(Path("my sweep")).results) == [0, 1, 2]
    monkeypatch.setattr(InstantEngine, "interrupted_by", None)
    assert run(arguments) == ExitCode.OK
    assert sorted(read_store(Path("my sweep")).results) == list(range(6))


def test_a_seed_without_an_outcome_fails_the_sweep_with_its_command(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "sweep", scenario, "--seeds", "4", "--from", "100"]) == ExitCode.FAILED
    said = capsys.readouterr().out
    assert "seed 101 has no outcome: it hung\n    weft sim run ./quiet.toml --seed 101\n" in said
    assert run(["sim", "sweep", scenario, "--seeds", "4", "--from", "100", "--json"]) == ExitCode.FAILED
    assert msgspec.json.decode(capsys.readouterr().out)["broken"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep", "nosuch"], "No scenario is called 'nosuch'"),
        (["sweep", "quiet.toml", "--seeds", "0"], "--seeds"),
        (["sweep", "quiet.toml", "--minutes", "0.01"], "needs more than"),
        (["sweep", "quiet.toml", "--engine", "dask"], "needs --scheduler ADDRESS"),
        (["report", "nowhere"], "nowhere holds no sweep"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(
    scenario: str, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(["sim", *arguments]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("weft: ")
    assert said.err.count("\n") == 1
    assert says in said.err


def test_an_engine_that_can_not_be_had_leaves_what_there_is(
    scenario: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    elsewhere = ["sim", "sweep", scenario, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"]
    assert run(elsewhere) == ExitCode.USAGE
    assert "pip install 'weft[cluster]'" in capsys.readouterr().err
    assert not Path("sweeps").exists()
    assert run(["sim", "sweep", scenario, "--seeds", "1"]) == ExitCode.OK
    assert run([*elsewhere, "--fresh"]) == ExitCode.USAGE
    assert list(read_store(Path("sweeps/quiet")).results) == [0]


def test_a_folder_of_another_sweep_is_refused_with_the_next_step(
    scenario: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sim", "sweep", scenario, "--seeds", "1"]) == ExitCode.OK
    Path("quiet.toml").write_text(SCENARIO.replace("Nothing", "Something"))
    capsys.readouterr()
    assert run(["sim", "sweep", scenario, "--seeds", "1"]) == ExitCode.USAGE
    assert "another text of that scenario: name another folder with --out" in capsys.readouterr().err
    assert run(["sim", "sweep", scenario, "--seeds", "1", "--fresh"]) == ExitCode.OK
    assert run(["sim", "report", "sweeps/quiet", "--seed", "8"]) == ExitCode.USAGE
    assert isinstance(read_store(Path("sweeps/quiet")).results[0], Outcome)
