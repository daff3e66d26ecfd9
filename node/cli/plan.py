"""`weft plan`: a dry run of placement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import node_text, rows_of
from protocols.ids import shortened


@click.command()
@click.argument("model")
@home_option
@json_option
def plan(model: str, home: str | None, as_json: bool) -> None:
    """Who would hold which layers of MODEL, if it were offered now."""
    with connect(home) as client:
        made = client.call("plan", {"model": model})
    if as_json:
        echo_json(made)
    else:
        for line in plan_lines(made):
            click.echo(line)


def plan_lines(made: dict[str, Any]) -> Iterator[str]:
    """A plan as people read it."""
    yield (
        f"{made['model']} ({shortened(made['digest'])}): {made['layers']} layers, "
        f"about {made['token_ms']:.1f} ms a token"
    )
    rows = [
        (
            held["range"],
            node_text(held["holder_name"], held["holder"]),
            node_text(held["standby_name"] or "", held["standby"]) if held["standby"] else "none",
        )
        for held in made["ranges"]
    ]
    yield from rows_of(("layers", "held by", "standby"), rows, "  ")
