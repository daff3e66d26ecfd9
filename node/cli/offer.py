"""`weft offer`: place a model on the mesh, with progress, and print who holds what."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from node.cli.options import connect, echo_json, goal_options, goal_params, home_option, json_option
from node.cli.plan import plan_lines
from node.cli.progress import Progress


@click.command()
@click.argument("path")
@home_option
@json_option
@click.option("--name", help="What people will call it; otherwise the folder's name.")
@goal_options
def offer(
    path: str,
    home: str | None,
    as_json: bool,
    name: str | None,
    on: tuple[str, ...],
    replicas: int,
    strategy: str,
    standby: str,
) -> None:
    """Share a model's layers over the mesh: PATH is a model folder, or weft-tiny, which comes with weft."""
    progress = Progress(sys.stderr)
    params = {"path": _absolute(path), "name": name, **goal_params(on, replicas, strategy, standby)}
    with connect(home) as client:
        try:
            offered = client.call("offer", params, progress.show, within_s=None)
        except KeyboardInterrupt:
            client.cancel()
            raise
    if as_json:
        echo_json(offered["plan"])
    else:
        for line in plan_lines(offered["plan"]):
            click.echo(line)


def _absolute(path: str) -> str:
    # The daemon has a working folder of its own; a name such as weft-tiny is passed on as it is.
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.exists() or "/" in path else path
