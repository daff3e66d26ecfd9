"""`weft models`: what the mesh serves, and who holds which layers."""

from __future__ import annotations

from typing import Any

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import rows_of
from protocols.ids import shortened


@click.command()
@home_option
@json_option
def models(home: str | None, as_json: bool) -> None:
    """The models that the mesh serves."""
    with connect(home) as client:
        found = client.call("models")
    if as_json:
        echo_json(found)
    elif not found["models"]:
        click.echo("No models yet. Share one with 'weft offer weft-tiny' or 'weft offer FOLDER'.", err=True)
    else:
        heads = ("name", "digest", "layers", "context", "state", "held by")
        for line in rows_of(heads, [_row(model) for model in found["models"]]):
            click.echo(line)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    holders = [f"{held['range']}: {held['name']}" for held in model["ranges"] if not held["standby"]]
    return (
        model["name"],
        shortened(model["digest"]),
        str(model["layers"]),
        str(model["context"] or "?"),
        "ready" if model["ready"] else "incomplete" if model["ranges"] else "not placed",
        ", ".join(holders) or "nobody",
    )
