"""What is run on every commit, and what is run at night: `python -m simulations.running.campaign ci`, or `night`.

    ci      the corpus, and 60 seeds of the swarm for a minute each: within two minutes of wall-clock time on two cores
    night   300 seeds of the swarm for two minutes each, and 20 times 200 nodes

Progress is told on stderr, one JSON object on stdout. Exits 1 if anything was found. Outcomes are kept by the code that they
are of: the nightly one goes on where it was stopped, and `weft sim report` makes a page of each folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from protocols.errors import WeftError
from protocols.exit_codes import ExitCode
from simulations.running.carrying_out import carry_out
from simulations.running.corpus import FOLDER as CORPUS
from simulations.running.corpus import load_all
from simulations.running.engines import Done, Engine, LocalEngine
from simulations.running.failure import package_digest, run_command
from simulations.running.outcome import Outcome
from simulations.running.statistics import Spread, summarise
from simulations.running.stopping import noted_interrupts
from simulations.running.store import Broken, header_of, open_store
from simulations.running.sweep import LOOK_S, Progress, progress_text, sweep
from simulations.running.task import Task
from simulations.scenarios.scenario import read

FOLDER: Final = Path("sweeps")
TELL_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """So many seeds of one scenario."""

    scenario: str
    seeds: int
    minutes: float | None = None
    nodes: int | None = None


CAMPAIGNS: Final[Mapping[str, tuple[Part, ...]]] = {
    "ci": (Part("swarm", 60, minutes=1),),
    "night": (Part("swarm", 300, minutes=2), Part("steady", 20, minutes=2, nodes=200)),
}
"""Each runs the corpus first."""
RESUMED: Final = frozenset({"night"})
"""Those that are too long to begin anew."""


class Found(Struct, frozen=True):
    """`command` shows it again."""

    rule: str
    times: int
    seed: int
    detail: str
    command: str


class PartTold(Struct, frozen=True):
    scenario: str
    runs: int
    virtual_s: float
    wall_s: float
    violations: int
    missed: int
    broken: int
    availability: float | None
    failover: Spread | None
    detection: Spread | None
    false_deaths: int
    found: tuple[Found, ...]


class Told(Struct, frozen=True):
    """`violations` counts broken promises and runs without an outcome as well: none of them may be."""

    campaign: str
    package: str
    violations: int
    wall_s: float
    is_whole: bool
    parts: tuple[PartTold, ...]


class Campaign:
    """`engine` makes a new one for each part; `say` hears how it goes."""

    def __init__(
        self,
        name: str,
        engine: Callable[[], Engine],
        shall_stop: Callable[[], bool],
        say: Callable[[str], None],
        folder: Path = FOLDER,
    ) -> None:
        self._name = name
        self._engine = engine
        self._shall_stop = shall_stop
        self._say = say
        self._folder = folder

    def run(self) -> Told:
        """The corpus, then every part. Raises `UserError` if outcomes can't be kept."""
        began_s = time.monotonic()
        parts = [self._corpus(), *(self._part(part) for part in CAMPAIGNS[self._name])]
        return Told(
            self._name,
            package_digest(),
            sum(part.violations + part.missed + part.broken for part in parts),
            round(time.monotonic() - began_s, 1),
            not self._shall_stop(),
            tuple(parts),
        )

    def _corpus(self) -> PartTold:
        kept = load_all()
        paths = [os.path.relpath(CORPUS / f"{name}.json") for name in kept]
        outcomes: list[Outcome] = []
        broken: list[Broken] = []
        with self._engine() as engine:
            engine.submit([Task(number, each.script) for number, each in enumerate(kept.values())])
            while len(outcomes) + len(broken) < len(kept) and not self._shall_stop():
                for ended in engine.ended(LOOK_S):
                    if isinstance(ended, Done):
                        # Scripts may have been drawn from the same seed: their number tells them apart.
                        outcomes.append(replace(ended.outcome, seed=ended.number))
                    else:
                        broken.append(Broken(ended.number, ended.why))
        self._say(f"corpus: {len(outcomes)} of {len(kept)} scripts have run")
        return _told("corpus", outcomes, broken, lambda number: run_command(paths[number]))

    def _part(self, part: Part) -> PartTold:
        name, text = read(part.scenario)
        header = header_of(name, part.scenario, text.decode(), part.nodes, part.minutes)
        folder = self._folder / f"{self._name}-{name}-{header.package_digest}"
        fresh = self._name not in RESUMED
        with open_store(folder, header, fresh=fresh) as store, self._engine() as engine:
            sweep(
                store, engine, range(part.seeds), on_progress=self._telling(part), shall_stop=self._shall_stop
            )
        found = store.results.values()
        outcomes = [result for result in found if isinstance(result, Outcome)]
        return _told(name, outcomes, [each for each in found if isinstance(each, Broken)], header.command)

    def _telling(self, part: Part) -> Callable[[Progress], None]:
        told_s = time.monotonic()

        def tell(progress: Progress) -> None:
            nonlocal told_s
            if time.monotonic() - told_s >= TELL_S or progress.before + progress.done == progress.total:
                told_s = time.monotonic()
                self._say(f"{part.scenario}: {progress_text(progress)}")

        return tell


def _told(
    scenario: str, outcomes: Sequence[Outcome], broken: Sequence[Broken], command: Callable[[int], str]
) -> PartTold:
    summary = summarise(outcomes, len(broken))
    found = [
        Found(each.rule, each.times, each.first_seed, each.detail, command(each.first_seed))
        for each in summary.findings
    ]
    found += [Found("no outcome", 1, each.seed, each.broken, command(each.seed)) for each in broken]
    return PartTold(
        scenario,
        summary.seeds,
        round(summary.virtual_hours * 3600, 3),
        round(summary.wall_hours * 3600, 1),
        summary.violations,
        summary.missed,
        summary.broken,
        summary.availability,
        summary.failover,
        summary.detection,
        summary.false_deaths,
        tuple(found),
    )


def main(arguments: Sequence[str]) -> int:
    """Its exit code."""
    if len(arguments) != 1 or arguments[0] not in CAMPAIGNS:
        return _complain(f"name one campaign: {', '.join(CAMPAIGNS)}", ExitCode.USAGE)
    jobs = len(os.sched_getaffinity(0))
    try:
        with noted_interrupts() as shall_stop:
            told = Campaign(arguments[0], lambda: LocalEngine(jobs, carry_out), shall_stop, _say).run()
    except WeftError as error:
        return _complain(str(error), ExitCode.FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", ExitCode.INTERRUPTED)
    click.echo(msgspec.json.encode(told))
    if not told.is_whole:
        return _complain("interrupted; what is told is not all", ExitCode.INTERRUPTED)
    return ExitCode.FAILED if told.violations else ExitCode.OK


def _say(line: str) -> None:
    click.echo(line, err=True)


def _complain(message: str, code: ExitCode) -> ExitCode:
    _say(f"campaign: {message}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
