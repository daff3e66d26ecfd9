"""`weft sim sweep`: one scenario with many seeds, in as many processes as there are cores, to be gone on with at any time."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Final

import click
import msgspec
from click.core import ParameterSource

from protocols.errors import UserError
from protocols.exit_codes import ExitCode
from simulations.cli.sweep_progress import SweepProgress
from simulations.running.carrying_out import carry_out, script_of
from simulations.running.engines import LIMIT_S, Engine, LocalEngine
from simulations.running.statistics import Summary, summarise
from simulations.running.stopping import noted_interrupts
from simulations.running.store import Broken, Header, Store, header_of, open_store
from simulations.running.summary_text import summary_lines
from simulations.running.sweep import sweep as run_sweep
from simulations.running.sweep import task_of
from simulations.scenarios.scenario import load, read

FOLDER: Final = "sweeps"


@click.command("sweep")
@click.argument("scenario")
@click.option("--seeds", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="How many.")
@click.option("--from", "first", type=click.IntRange(0), default=0, show_default=True, help="The first seed.")
@click.option("--nodes", type=click.IntRange(2, 1024), help="Instead of what the scenario says.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Virtual minutes of each run.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes; as many as there are cores otherwise.")
@click.option("--out", metavar="FOLDER", help=f"Where the outcomes are kept; {FOLDER}/SCENARIO otherwise.")
@click.option("--fresh", is_flag=True, help="Throw away what the folder has.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first violation.")
@click.option(
    "--limit",
    "limit_s",
    type=click.FloatRange(1),
    default=LIMIT_S,
    show_default=True,
    metavar="SECONDS",
    help="Wall-clock time after which one seed is given up.",
)
@click.option("--engine", type=click.Choice(["local", "dask"]), default="local", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="Of Dask, such as tcp://HOST:8786.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on stdout.")
@click.pass_context
def sweep(
    ctx: click.Context,
    scenario: str,
    seeds: int,
    first: int,
    nodes: int | None,
    minutes: float | None,
    jobs: int | None,
    out: str | None,
    fresh: bool,
    fail_fast: bool,
    limit_s: float,
    engine: str,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Run a scenario (a name, or the path of a TOML file) with many seeds, and say what they come to.

    The same command again goes on where it was stopped. Exits 1 if any seed shows a violation, breaks a promise or gives no outcome.
    """
    folder, wanted = Path(out or f"{FOLDER}/{Path(scenario).stem}"), range(first, first + seeds)
    header = _header(scenario, first, nodes, minutes)
    with (
        noted_interrupts() as shall_stop,
        # Before the store, so that an engine that can't be had leaves the folder as it was.
        _engine(engine, jobs, limit_s, scheduler) as chosen,
        open_store(folder, header, fresh=fresh) as store,
    ):
        if store.note:
            click.echo(f"{folder}: {store.note}", err=True)
        with SweepProgress(sys.stderr) as progress:
            is_whole = run_sweep(
                store, chosen, wanted, on_progress=progress.show, shall_stop=shall_stop, fail_fast=fail_fast
            )
        was_interrupted = shall_stop() and not is_whole
    summary = _summary(store, wanted)
    _tell(store, wanted, summary, as_json=as_json)
    if was_interrupted:
        click.echo(f"interrupted; what has ended is kept in {folder}. Go on with: {_again(ctx)}", err=True)
        ctx.exit(ExitCode.INTERRUPTED)
    click.echo(f"kept in {folder}; 'weft sim report {shlex.quote(str(folder))}' makes a page of it", err=True)
    ctx.exit(ExitCode.OK if summary.is_good else ExitCode.FAILED)


def _header(scenario: str, first: int, nodes: int | None, minutes: float | None) -> Header:
    """Raises `UserError` for what can't be had, before any process is started."""
    load(scenario)
    name, text = read(scenario)
    header = header_of(name, scenario, text.decode(), nodes, minutes)
    script_of(task_of(header, first))
    return header


def _engine(name: str, jobs: int | None, limit_s: float, scheduler: str | None) -> Engine:
    if name == "local":
        return LocalEngine(jobs or len(os.sched_getaffinity(0)), carry_out, limit_s)
    if scheduler is None:
        raise UserError("--engine dask needs --scheduler ADDRESS, as 'dask scheduler' prints it.")
    from simulations.running.dask_engine import DaskEngine

    return DaskEngine(scheduler, carry_out, limit_s)


def _summary(store: Store, wanted: range) -> Summary:
    found = [store.results[seed] for seed in wanted if seed in store.results]
    outcomes = [result for result in found if not isinstance(result, Broken)]
    return summarise(outcomes, broken=len(found) - len(outcomes))


def _tell(store: Store, wanted: range, summary: Summary, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(summary))
        return
    for line in summary_lines(summary, store.header):
        click.echo(line)
    for seed in wanted:
        result = store.results.get(seed)
        if isinstance(result, Broken):
            click.echo(f"seed {seed} has no outcome: {result.broken}")
            click.echo(f"    {store.header.command(seed)}")


def _again(ctx: click.Context) -> str:
    """The command as it was given, but that it may keep what there is."""
    words = ["weft", "sim", "sweep", ctx.params["scenario"]]
    for option in ctx.command.params:
        name = option.name or ""
        is_given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if isinstance(option, click.Option) and is_given and name != "fresh":
            words += [option.opts[0]] if option.is_flag else [option.opts[0], str(ctx.params[name])]
    return shlex.join(words)
