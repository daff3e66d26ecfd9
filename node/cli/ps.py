"""`weft ps`: generations that entered at this node."""

from __future__ import annotations

from typing import Any

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import duration_text, rows_of
from protocols.ids import shortened


@click.command()
@home_option
@json_option
def ps(home: str | None, as_json: bool) -> None:
    """The generations under way."""
    with connect(home) as client:
        found = client.call("ps")
    if as_json:
        echo_json(found)
    elif not found["sessions"]:
        click.echo("No generation is under way.", err=True)
    else:
        heads = ("session", "model", "tokens", "tok/s", "age", "epoch", "route")
        for line in rows_of(heads, [_row(session) for session in found["sessions"]]):
            click.echo(line)


def _row(session: dict[str, Any]) -> tuple[str, ...]:
    route = " > ".join(f"{stage['name']} {stage['range']}" for stage in session["route"])
    return (
        shortened(session["session"]),
        session["model"],
        f"{session['prompt_tokens']}+{session['completion_tokens']}",
        f"{session['tokens_per_s']:.1f}",
        duration_text(session["age_s"]),
        str(session["epoch"]),
        route,
    )
