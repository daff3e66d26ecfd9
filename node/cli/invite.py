"""`weft invite`: one string on stdout, what it is good for on stderr."""

from __future__ import annotations

from typing import Final

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import duration_text

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Of a number with s, m, h or d behind it."""
    number, unit = (value[:-1], value[-1]) if value[-1:] in _UNITS_S else (value, "s")
    try:
        seconds = float(number) * _UNITS_S[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 365 * 86_400:
        raise click.BadParameter(
            f"{value!r} is not a time such as 90s, 30m, 24h or 7d, up to a year.", ctx, param
        )
    return seconds


@click.command()
@home_option
@json_option
@click.option(
    "--uses", type=click.IntRange(1, 1024), default=1, show_default=True, help="How many may join with it."
)
@click.option(
    "--ttl", callback=_seconds, default="24h", show_default=True, help="How long it is good: 30m, 24h, 7d."
)
def invite(home: str | None, as_json: bool, uses: int, ttl: float) -> None:
    """Make an invite that others join with. Whoever has it can join: hand it on with care."""
    with connect(home) as client:
        made = client.call("invite", {"uses": uses, "ttl_s": ttl})
    if as_json:
        echo_json(made)
        return
    click.echo(made["invite"])
    nodes = "one node" if uses == 1 else f"{uses} nodes"
    click.echo(f"For {nodes}, within {duration_text(ttl)}: weft up --join INVITE", err=True)
