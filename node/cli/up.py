"""`weft up`: configuration, then the daemon in the foreground until a signal or `weft down`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from node.cli.options import folders_of, home_option
from node.cli.tables import node_text
from protocols.ids import shortened


@click.command()
@home_option
@click.option("--join", metavar="INVITE", help="Join the network of this invite.")
@click.option("--name", help="What people call this node.")
@click.option(
    "--label", "labels", metavar="KEY=VALUE", multiple=True, help="Such as zone=eu; may be repeated."
)
@click.option(
    "--control-listen",
    metavar="MULTIADDR",
    help="Control plane, such as /ip4/0.0.0.0/tcp/4747; tcp/0: any port.",
)
@click.option("--data-listen", metavar="MULTIADDR", help="Data plane, such as /ip4/0.0.0.0/tcp/4748.")
@click.option(
    "--foreign-listen",
    metavar="MULTIADDR",
    help="For libp2p peers that are no members: identify, ping and echo alone.",
)
@click.option(
    "--http", metavar="[HOST:]PORT", help="Where HTTP listens, such as 127.0.0.1:8747; port 0: any."
)
@click.pass_context
def up(
    ctx: click.Context,
    home: str | None,
    join: str | None,
    name: str | None,
    labels: tuple[str, ...],
    control_listen: str | None,
    data_listen: str | None,
    foreign_listen: str | None,
    http: str | None,
) -> None:
    """Run this machine's daemon in the foreground."""
    # Only this verb pays for trio and the HTTP server.
    from node.config import load_config
    from node.main import serve
    from node.telemetry import configure_logging

    host, port = _split_http(http)
    flags = {
        "mesh.join": join,
        "mesh.control_listen": control_listen,
        "mesh.data_listen": data_listen,
        "mesh.foreign_listen": foreign_listen,
        "node.name": name,
        "node.labels": ",".join(labels) or None,
        "http.host": host,
        "http.port": port,
    }
    folders = folders_of(home)
    config = load_config(folders.read_config(), str(folders.config_file), os.environ, flags)
    configure_logging(config.log.level, sys.stderr)
    hint = f" --home {home}" if home else ""
    ctx.exit(serve(config, folders, lambda status: _announce(status, hint)))


def _split_http(http: str | None) -> tuple[str | None, str | None]:
    if http is None:
        return None, None
    host, _, port = http.rpartition(":")
    return host.strip("[]") or None, port


def _announce(status: dict[str, Any], hint: str) -> None:
    who = node_text(status["name"], status["peer"])
    click.echo(f"weft {status['version']} is up: {who} in network {shortened(status['network'])}")
    click.echo(f"  peer     {status['peer']}")
    for plane, addresses in status["addresses"].items():
        if plane == "bootstrap":  # `weft status` has it
            continue
        click.echo(f"  {plane:<8} {', '.join(addresses)}")
    click.echo(f"  http     http://{status['http']}/v1")
    click.echo(f"  invite others with 'weft invite{hint}', stop with 'weft down{hint}' or Ctrl-C.")
    sys.stdout.flush()
