"""`weft sim list`: the scenarios that ship, with a line about each."""

from __future__ import annotations

import click

from node.cli.options import echo_json, json_option
from node.cli.tables import rows_of
from simulations.scenarios.scenario import names


@click.command("list")
@json_option
def list_(as_json: bool) -> None:
    """The scenarios that ship. A file of your own serves as well: weft sim run my.toml."""
    found = names()
    if as_json:
        echo_json(dict(found))
        return
    for line in rows_of(("scenario", "what happens"), list(found.items()), ""):
        click.echo(line)
