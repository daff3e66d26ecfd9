"""`weft sim check-determinism`: one seed twice, and the first event in which the two runs differ."""

from __future__ import annotations

import click

from protocols.exit_codes import ExitCode
from simulations.cli.asked import find
from simulations.cli.progress_line import ProgressLine
from simulations.running.comparing import first_difference, stream_elsewhere, stream_of

SCENARIO = "swarm"


@click.command("check-determinism")
@click.argument("seed", type=click.IntRange(0))
@click.option(
    "--scenario",
    default=SCENARIO,
    show_default=True,
    metavar="SCENARIO|FILE",
    help="A scenario by its name or from a .toml file.",
)
@click.option("--nodes", type=click.IntRange(1, 10_000), help="Instead of what the scenario says.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, 10_000, min_open=True),
    help="Virtual ones, instead of what the scenario says.",
)
@click.pass_context
def check_determinism(
    ctx: click.Context, seed: int, scenario: str, nodes: int | None, minutes: float | None
) -> None:
    """Run SEED twice, the second time in a process where strings hash otherwise.

    Exits 0 if the two are the same in every event, 1 with the first that differs and what came before.
    """
    script = find(scenario, seed, nodes, minutes).script
    with ProgressLine() as line:
        line.write("the first run …")
        one = stream_of(script)
        line.write(f"the first run had {len(one):,} events, now the second …")
        two = stream_elsewhere(script)
    difference = first_difference(one, two)
    if difference is None:
        click.echo(f"the same: {len(one) - 1:,} events, then {one[-1].decode()}")
        return
    click.echo(f"event {difference.index:,} differs:\n{difference}")
    ctx.exit(ExitCode.FAILED)
