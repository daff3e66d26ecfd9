from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from simulations.running.engines import Done, Ended, Failed
from simulations.running.stopping import noted_interrupts
from simulations.running.store import Broken, open_store
from simulations.running.sweep import Progress, progress_text, sweep
from simulations.running.task import Task
from tests.simulations.running.outcomes import HEADER, TWICE, outcome


class InstantEngine:
    """Carries out two tasks at each look, the later one first. `broken` seeds fail, `bad` ones show a violation."""

    def __init__(self, broken: Sequence[int] = (), bad: Sequence[int] = ()) -> None:
        self.broken, self.bad = broken, bad
        self.tasks: list[Task] = []
        self.ran: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> None:
        self.tasks = list(tasks)

    def ended(self, within_s: float) -> list[Ended]:
        now, self.tasks = self.tasks[:2][::-1], self.tasks[2:]
        self.ran += [task.seed for task in now]
        return [self._end(task) for task in now]

    def _end(self, task: Task) -> Ended:
        assert (task.scenario, task.text, task.nodes, task.minutes) == ("churn", HEADER.text, 5, 2.0)
        if task.seed in self.broken:
            return Failed(task.number, "it hung")
        return Done(task.number, outcome(task.seed, violations=(TWICE,) if task.seed in self.bad else ()))


def test_every_seed_is_run_and_kept_as_it_ends(tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []
    with open_store(tmp_path, HEADER) as store:
        is_whole = sweep(
            store,
            InstantEngine(broken=[12]),
            range(10, 15),
            on_progress=lambda it: told.append((it.done, it.findings, it.virtual_s)),
        )
        assert is_whole
        assert list(store.results) == [11, 10, 13, 12, 14]
        assert store.results[12] == Broken(12, "it hung")
    assert told == [(2, 0, 240.0), (4, 1, 360.0), (5, 1, 480.0)]


def test_a_sweep_goes_on_where_it_was_stopped_and_tries_again_what_gave_no_outcome(tmp_path: Path) -> None:
    looks = iter([False, False, True])
    with open_store(tmp_path, HEADER) as store:
        assert not sweep(store, InstantEngine(broken=[1]), range(6), shall_stop=lambda: next(looks))
    told: list[Progress] = []
    with open_store(tmp_path, HEADER) as store:
        engine = InstantEngine()
        assert sweep(store, engine, range(6), on_progress=told.append)
        assert sorted(engine.ran) == [1, 4, 5]
        assert set(store.results) == set(range(6))
        assert not any(isinstance(result, Broken) for result in store.results.values())
    assert (told[-1].before, told[-1].done, told[-1].total, told[-1].findings) == (3, 3, 6, 0)
    with open_store(tmp_path, HEADER) as store:
        engine = InstantEngine()
        assert sweep(store, engine, range(6))
        assert engine.ran == []


def test_fail_fast_stops_at_the_first_finding_also_at_one_that_is_there(tmp_path: Path) -> None:
    with open_store(tmp_path, HEADER) as store:
        assert not sweep(store, InstantEngine(bad=[2]), range(10), fail_fast=True)
        assert sorted(store.results) == [0, 1, 2, 3]
    with open_store(tmp_path, HEADER) as store:
        engine = InstantEngine()
        assert not sweep(store, engine, range(10), fail_fast=True)
        assert engine.ran == []


def test_the_progress_line_tells_speed_findings_and_what_is_left() -> None:
    progress = Progress(100, 40, done=20, findings=3, virtual_s=2400.0, wall_s=60.0)
    assert progress_text(progress) == "60 of 100 seeds, 40 virtual seconds per second, 3 findings, 2 min left"
    assert progress_text(Progress(5, 0)) == "0 of 5 seeds, 0 findings"
    ended = Progress(5, 0, done=5, wall_s=1.0)
    assert "left" not in progress_text(ended)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_noted_and_a_later_one_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    now_s = 5.0
    with noted_interrupts(lambda: now_s) as has_come:
        assert not has_come()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the same wish, from another
        assert has_come()
        now_s += 1.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
