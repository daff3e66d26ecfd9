"""`weft sim`: the mesh on a virtual clock. Found by `weft` through the entry point group `weft.commands`.

The rule of the file: nothing is imported for a command but its own module, so that --help answers at once.
"""

from __future__ import annotations

from typing import Final

import click

from node.cli.verbs import Verbs
from protocols.exit_codes import ExitCode

COMMANDS: Final = {
    "list": "the scenarios that ship",
    "run": "run a scenario or a script once",
    "check-determinism": "run a seed twice and compare every event",
    "shrink": "the smallest script that still fails",
    "sweep": "run a scenario with many seeds",
    "report": "a page about a sweep",
}


@click.group(
    cls=Verbs,
    verbs=COMMANDS,
    package="simulations.cli",
    invoke_without_command=True,
    short_help="the mesh on a virtual clock: scenarios, faults, invariants",
)
@click.pass_context
def sim(ctx: click.Context) -> None:
    """Whole daemons on a virtual clock and network, with faults, watched by invariants.

    A scenario and a seed give the same run every time, everywhere.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(ExitCode.OK)
