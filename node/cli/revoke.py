"""`weft revoke`: end a membership."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import node_text


@click.command()
@click.argument("peer")
@home_option
@json_option
def revoke(peer: str, home: str | None, as_json: bool) -> None:
    """End the membership of PEER (a name or id), for good, and of all whom it invited.

    The founder of a network may revoke anybody, others those whom they let in.
    """
    with connect(home) as client:
        made = client.call("revoke", {"peer": peer})
    if as_json:
        echo_json(made)
    else:
        for line in revoked_lines(made):
            click.echo(line)


def revoked_lines(made: dict[str, Any]) -> Iterator[str]:
    """What was done, as people read it."""
    yield f"{node_text(made['name'], made['peer'])} is no member any more; the others are being told."
    yield "  To come back it needs a new home and a new invite."
    if made["below"]:
        names = ", ".join(node_text(each["name"], each["peer"]) for each in made["below"])
        yield f"  With it went whom it had invited: {names}. They need new invites."
