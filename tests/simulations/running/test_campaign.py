from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import pytest

from protocols.exit_codes import ExitCode
from simulations.running import campaign
from simulations.running.campaign import Campaign, Part
from simulations.running.corpus import Kept
from simulations.running.engines import Done, Ended, Failed
from simulations.running.task import Task
from simulations.scenarios.script import NodeSpec, Script
from tests.simulations.running.outcomes import TWICE, outcome


class InstantEngine:
    """Seed 3 of a scenario shows a violation, and the second script of the corpus gives no outcome."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> None:
        self._tasks = list(tasks)

    def ended(self, within_s: float) -> list[Ended]:
        tasks, self._tasks = self._tasks, []
        return [self._end(task) for task in tasks]

    @staticmethod
    def _end(task: Task) -> Ended:
        if task.script is not None:
            return Failed(task.number, "it hung") if task.number else Done(task.number, outcome(77))
        return Done(task.number, outcome(task.seed, violations=(TWICE,) if task.seed == 3 else ()))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(Script("churn", 77, 10.0, (NodeSpec("n0"),)))
    monkeypatch.setattr(campaign, "load_all", lambda: {"first": kept, "second": kept})
    parts = (Part("steady", 5, minutes=2), Part("steady", 2, nodes=9))
    monkeypatch.setattr(campaign, "CAMPAIGNS", {"ci": parts[:1], "night": parts[:1]})


@pytest.mark.usefixtures("small")
def test_a_campaign_tells_every_finding_with_its_command(tmp_path: Path) -> None:
    said: list[str] = []
    told = Campaign("ci", InstantEngine, lambda: False, said.append, tmp_path).run()
    assert (told.violations, told.is_whole) == (2, True)
    corpus, steady = told.parts
    assert (corpus.scenario, corpus.runs, corpus.broken) == ("corpus", 1, 1)
    assert [(found.rule, found.detail) for found in corpus.found] == [("no outcome", "it hung")]
    assert corpus.found[0].command.endswith("simulations/corpus/second.json")
    assert (steady.runs, steady.violations, steady.virtual_s) == (5, 1, 600.0)
    assert steady.found[0].command == "weft sim run steady --seed 3 --minutes 2"
    assert said == [
        "corpus: 1 of 2 scripts have run",
        "steady: 5 of 5 seeds, " + said[1].split("seeds, ")[1],
    ]
    assert msgspec.json.decode(msgspec.json.encode(told))["violations"] == 2


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "runs_again"), [("ci", 5), ("night", 0)])
def test_only_the_night_goes_on_where_it_was_stopped(tmp_path: Path, name: str, runs_again: int) -> None:
    ran: list[int] = []

    class Counting(InstantEngine):
        def submit(self, tasks: Sequence[Task]) -> None:
            ran.append(sum(task.script is None for task in tasks))
            super().submit(tasks)

    for _ in range(2):
        Campaign(name, Counting, lambda: False, lambda line: None, tmp_path).run()
    assert ran == [0, 5, 0, runs_again]


def test_the_campaigns_are_of_the_agreed_size() -> None:
    assert campaign.CAMPAIGNS["ci"] == (Part("swarm", 60, minutes=1),)
    assert campaign.CAMPAIGNS["night"] == (
        Part("swarm", 300, minutes=2),
        Part("steady", 20, minutes=2, nodes=200),
    )


def test_an_unknown_campaign_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["noon"]) == ExitCode.USAGE
    assert "name one campaign: ci, night" in capsys.readouterr().err
