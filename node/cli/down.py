"""`weft down`: ask the daemon to end and wait until it has."""

from __future__ import annotations

from typing import Final

import click

from node.cli.options import folders_of, home_option
from node.control_client import ControlClient, wait_unlocked
from protocols import limits

_MARGIN_S: Final = 10.0  # to say goodbye to peers and end the worker, on top of the drain


@click.command()
@home_option
def down(home: str | None) -> None:
    """Let sessions finish, then stop the daemon."""
    folders = folders_of(home)
    with ControlClient(folders.socket) as client:
        client.call("down")
        client.wait_closed(limits.DRAIN_S + _MARGIN_S)
    wait_unlocked(folders, _MARGIN_S)
    click.echo("weft: down.", err=True)
