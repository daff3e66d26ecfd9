"""`weft withdraw`: take a model back from every node that holds some of it."""

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
def withdraw(model: str, home: str | None, as_json: bool) -> None:
    """Let every node go of MODEL. Answers under way are finished first; weights on disk stay there."""
    with connect(home) as client:
        withdrawn = client.call("withdraw", {"model": model}, within_s=None)
    if as_json:
        echo_json(withdrawn)
    else:
        for line in _lines(withdrawn):
            click.echo(line)


def _lines(withdrawn: dict[str, Any]) -> Iterator[str]:
    name = f"{withdrawn['model']} ({shortened(withdrawn['digest'])})"
    ranges = withdrawn["ranges"]
    if not ranges:
        yield f"{name}: nobody held any of it."
        return
    yield f"{name}: no longer served."
    rows = [
        (
            each["range"],
            node_text(each["name"], each["peer"]) + (" (standby)" if each["standby"] else ""),
            f"not free yet: {each['trouble']}" if each["trouble"] else "released",
        )
        for each in ranges
    ]
    yield from rows_of(("layers", "held by", "state"), rows, "  ")
