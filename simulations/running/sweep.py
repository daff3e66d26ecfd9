"""One scenario, many seeds: what is not there yet is run, and what ends is kept at once.

The rule of the file: a sweep that is stopped at any time can go on; nothing is run twice but seeds that gave no outcome.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from node.cli.tables import duration_text
from simulations.running.engines import Done, Ended, Engine
from simulations.running.outcome import Outcome
from simulations.running.store import Broken, Header, Result, Store
from simulations.running.task import Task

LOOK_S: Final = 0.5
"""How often a sweep looks up from its runs: to tell how it goes, and whether it shall stop."""


@dataclass(slots=True)
class Progress:
    """`before` seeds were there when it began. `findings` counts violations, broken promises and seeds without an outcome."""

    total: int
    before: int
    done: int = 0
    findings: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0

    @property
    def speed(self) -> float:
        """Virtual seconds per second of wall-clock time, all processes together."""
        return self.virtual_s / self.wall_s if self.wall_s else 0.0

    @property
    def left_s(self) -> float | None:
        """Wall-clock seconds to the end, None while nothing tells."""
        return (self.total - self.before - self.done) * self.wall_s / self.done if self.done else None


def progress_text(progress: Progress) -> str:
    done = progress.before + progress.done
    # Nothing tells the speed before the first seed has ended.
    speed = f", {progress.speed:.0f} virtual seconds per second" if progress.done else ""
    left = ""
    if progress.left_s is not None and done < progress.total:
        left = f", {duration_text(progress.left_s)} left"
    return f"{done} of {progress.total} seeds{speed}, {progress.findings} findings{left}"


def task_of(header: Header, seed: int) -> Task:
    return Task(seed, None, header.scenario, header.text, seed, header.nodes, header.minutes)


def sweep(
    store: Store,
    engine: Engine,
    seeds: Iterable[int],
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    shall_stop: Callable[[], bool] = lambda: False,
    fail_fast: bool = False,
) -> bool:
    """Whether every seed has been tried. False if it was told to stop, or something was found and `fail_fast` holds."""
    wanted = list(seeds)
    left = [seed for seed in wanted if not isinstance(store.results.get(seed), Outcome)]
    progress = Progress(len(wanted), len(wanted) - len(left))
    progress.findings = sum(map(findings, (store.results[seed] for seed in wanted if seed not in left)))
    began_s = time.monotonic()
    engine.submit([task_of(store.header, seed) for seed in left])
    while progress.done < len(left):
        if shall_stop() or (fail_fast and progress.findings):
            return False
        for ended in engine.ended(LOOK_S):
            result = _result(ended)
            store.append(result)
            progress.done += 1
            progress.findings += findings(result)
            progress.virtual_s += result.virtual_s if isinstance(result, Outcome) else 0.0
        progress.wall_s = time.monotonic() - began_s
        on_progress(progress)
    return True


def findings(result: Result) -> int:
    return 1 if isinstance(result, Broken) else len(result.violations) + len(result.missed)


def _result(ended: Ended) -> Result:
    return ended.outcome if isinstance(ended, Done) else Broken(ended.number, ended.why)
