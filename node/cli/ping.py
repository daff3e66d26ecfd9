"""`weft ping`: whether a libp2p peer of another kind answers, what it is, and how fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from node.cli.options import connect, echo_json, home_option, json_option
from protocols import limits


@click.command()
@click.argument("address", metavar="MULTIADDR/p2p/ID")
@click.option(
    "-c",
    "--count",
    type=click.IntRange(1, limits.FOREIGN_PINGS_MAX),
    default=4,
    show_default=True,
    help="How often.",
)
@home_option
@json_option
def ping(address: str, count: int, home: str | None, as_json: bool) -> None:
    """Ask a libp2p peer that is no member, such as /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo...

    The daemon does it, if it allows foreign peers: 'weft up --foreign-listen', or mesh.foreign_listen.
    """
    with connect(home) as client:
        found = client.call("ping", {"address": address, "count": count})
    if as_json:
        echo_json(found)
    else:
        for line in pinged_lines(found):
            click.echo(line)


def pinged_lines(found: dict[str, Any]) -> Iterator[str]:
    """What came of it, as people read it."""
    yield f"{found['peer']} is {found['agent'] or 'of unknown make'}"
    yield from (f"  {number}: {rtt:.2f} ms" for number, rtt in enumerate(found["rtts_ms"], 1))
    ranked = sorted(found["rtts_ms"])
    yield f"  least {ranked[0]:.2f} ms, median {ranked[len(ranked) // 2]:.2f} ms, most {ranked[-1]:.2f} ms"
