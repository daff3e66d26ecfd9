"""`weft sim shrink`: the smallest script that still fails in the same way, written to a file."""

from __future__ import annotations

from pathlib import Path

import click

from protocols.errors import UserError
from protocols.exit_codes import ExitCode
from simulations.cli.asked import Asked, find, scenario_options
from simulations.cli.progress_line import ProgressLine
from simulations.running.corpus import Kept, encode
from simulations.running.failure import failure_text, failures, run_command
from simulations.running.outcome import Outcome
from simulations.running.run import run_script
from simulations.running.shrinking import RUNS_MAX
from simulations.running.shrinking import shrink as shrink_script
from simulations.scenarios.script import Script


@click.command()
@scenario_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the smallest script.  [default: NAME-SEED.json]",
)
@click.option(
    "--runs", type=click.IntRange(1), default=RUNS_MAX, show_default=True, help="How many to try at most."
)
@click.pass_context
def shrink(
    ctx: click.Context,
    scenario: str,
    seed: int | None,
    nodes: int | None,
    minutes: float | None,
    out: Path | None,
    runs: int,
) -> None:
    """Drop faults, nodes and requests of a run that fails, and shorten the rest, for as long as it fails alike.

    Ctrl-C ends it with the smallest script so far.
    """
    asked = find(scenario, seed, nodes, minutes)
    path = out or Path(f"{asked.script.scenario}-{asked.script.seed}.json")
    with ProgressLine() as line:
        line.write("the run as it was asked for …")
        search = _Search(asked, path, line)
        note, code = search.run(runs)
    click.echo(f"{_size(search.smallest)}: {note}, written to {path}")
    click.echo(failure_text(search.outcome, run_command(str(path))))
    ctx.exit(code)


class _Search:
    """`failure` is the invariant that is violated or the expectation that is missed; `outcome` is of the `smallest`,
    which is in the file at any time: whatever ends the search loses nothing."""

    def __init__(self, asked: Asked, path: Path, line: ProgressLine) -> None:
        self.smallest = asked.script
        self.outcome = _run(asked.script)
        if self.outcome.is_good:
            raise UserError(
                f"nothing fails in '{asked.command}': there is nothing to shrink. Try another seed."
            )
        self.failure = failures(self.outcome)[0]
        self._path = path
        self._line = line
        self._runs_max = 0

    def run(self, runs_max: int) -> tuple[str, ExitCode]:
        """What to say of it, and what to exit with."""
        self._runs_max = runs_max
        self._keep()
        try:
            shrunk = shrink_script(self.smallest, self._fails, runs_max, self._show)
        except KeyboardInterrupt:
            return "interrupted, the smallest so far", ExitCode.INTERRUPTED
        if shrunk.is_minimal:
            return f"nothing more can go after {shrunk.runs} runs", ExitCode.OK
        return f"the smallest of {shrunk.runs} runs, raise --runs for more", ExitCode.OK

    def _fails(self, script: Script) -> bool:
        outcome = _run(script)
        fails = self.failure in failures(outcome)
        if fails:
            self.smallest, self.outcome = script, outcome
            self._keep()
        return fails

    def _keep(self) -> None:
        _write(self._path, Kept(self.smallest, invariant=self.failure))

    def _show(self, runs: int, smallest: Script) -> None:
        self._line.write(f"run {runs + 1} of at most {self._runs_max}: {self.failure} with {_size(smallest)}")


def _run(script: Script) -> Outcome:
    outcome = run_script(script)
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome


def _size(script: Script) -> str:
    counts = (
        (len(script.faults), "faults"),
        (len(script.nodes), "nodes"),
        (len(script.requests), "requests"),
    )
    return ", ".join(f"{count} {what}" for count, what in counts) + f", {script.duration_s:g} s"


def _write(path: Path, kept: Kept) -> None:
    try:
        path.write_bytes(encode(kept))
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}. Give --out another path.") from None
