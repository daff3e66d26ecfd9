"""`weft version`: the release of this command; the daemon's is in `weft status`."""

from __future__ import annotations

import importlib.metadata

import click

from node.cli.options import echo_json, json_option


@click.command()
@json_option
def version(as_json: bool) -> None:
    """The release of this command."""
    release = importlib.metadata.version("weft")
    if as_json:
        echo_json({"version": release})
    else:
        click.echo(f"weft {release}")
