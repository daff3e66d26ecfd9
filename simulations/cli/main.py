"""`weft sim`: the mesh on a virtual clock. Found by `weft` through the entry point group `weft.commands`.

The rule of the file: nothing is imported for a command but its own module, so that --help answers at once.
"""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.verbs import Verbs
from protocols.errors import UserError
from protocols.exit_codes import ExitCode

COMMANDS: Final = {
    "list": "the scenarios that ship",
    "run": "run a scenario or a script once",
    "check-determinism": "run a seed twice and compare every event",
    "shrink": "the smallest script that still fails",
    "sweep": "run a scenario with many seeds",
    "report": "a page about a sweep",
}


class WrongAsked(click.ClickException):
    """One line and the next step, as usage errors exit: 1 is for runs that were not good."""

    exit_code = ExitCode.USAGE


class SimVerbs(Verbs):
    """What can't be had as it was asked for is wrong usage, wherever that comes out."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise WrongAsked(str(error)) from None


@click.group(
    cls=SimVerbs,
    verbs=COMMANDS,
    package="simulations.cli",
    invoke_without_command=True,
    short_help="the mesh on a virtual clock: scenarios, faults, invariants",
)
@click.pass_context
def sim(ctx: click.Context) -> None:
    """Whole daemons on a virtual clock and network, with faults, watched by invariants.

    A scenario and a seed give the same run every time.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(ExitCode.OK)
