"""`weft sim run`: one run, told in a few lines. Exits 0 if it was good, 1 for a violation or a missed expectation."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from node.cli.options import json_option
from protocols.exit_codes import ExitCode
from simulations.cli.asked import find, scenario_options
from simulations.cli.progress_line import ProgressLine
from simulations.running.failure import failure_text
from simulations.running.outcome import Outcome
from simulations.running.run import run_script
from simulations.running.telling import outcome_text
from simulations.running.trace_file import traced_to


@click.command()
@scenario_options
@click.option(
    "--trace",
    "trace_path",
    metavar="FILE.jsonl",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write every event and what the daemons log, a line each.",
)
@click.option("--keep-going", is_flag=True, help="On after the first violation, to the end of the script.")
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    scenario: str,
    seed: int | None,
    nodes: int | None,
    minutes: float | None,
    trace_path: Path | None,
    keep_going: bool,
    as_json: bool,
) -> None:
    """Run SCENARIO, by its name or from a .toml file, or a script from a .json file, once.

    Ctrl-C ends it with what is known so far.
    """
    asked = find(scenario, seed, nodes, minutes)
    with traced_to(trace_path) as (trace, on_log), ProgressLine() as line:
        outcome = run_script(
            asked.script, trace=trace, on_progress=line.show, on_log=on_log, stop_at_first=not keep_going
        )
    click.echo(_as_json(outcome, asked.command) if as_json else outcome_text(outcome))
    if not (outcome.is_good or as_json):
        click.echo(failure_text(outcome, asked.command))
    ctx.exit(exit_code(outcome))


def exit_code(outcome: Outcome) -> ExitCode:
    """A run that was interrupted counts as good only if it had come to its end."""
    if not outcome.is_good:
        return ExitCode.FAILED
    return ExitCode.INTERRUPTED if outcome.interrupted else ExitCode.OK


def _as_json(outcome: Outcome, command: str) -> str:
    fields = {**msgspec.to_builtins(outcome), "is_good": outcome.is_good, "command": command}
    return msgspec.json.encode(fields).decode()
