"""`weft plan`: a dry run of placement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from node.cli.options import connect, echo_json, goal_options, goal_params, home_option, json_option
from node.cli.tables import node_text, rows_of, size_text
from protocols.ids import shortened


@click.command()
@click.argument("model")
@home_option
@json_option
@goal_options
@click.option("--why", is_flag=True, help="Time range by range, standbys with the pause to expect, refusals.")
def plan(
    model: str,
    home: str | None,
    as_json: bool,
    on: tuple[str, ...],
    replicas: int,
    strategy: str,
    standby: str,
    why: bool,
) -> None:
    """Who would hold which layers of MODEL, if it were offered now."""
    with connect(home) as client:
        made = client.call("plan", {"model": model, **goal_params(on, replicas, strategy, standby)})
    if as_json:
        echo_json(made)
    else:
        for line in (*plan_lines(made), *(why_lines(made) if why else ())):
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
            ", ".join(map(_standby_text, held["standbys"])) or "none",
        )
        for held in made["ranges"]
    ]
    yield from rows_of(("layers", "held by", "standby"), rows, "  ")


def why_lines(made: dict[str, Any]) -> Iterator[str]:
    """What the plan goes by."""
    for held in made["ranges"]:
        yield ""
        yield (
            f"layers {held['range']} on {node_text(held['holder_name'], held['holder'])}: "
            f"{held['compute_ms']:.2f} ms + {held['hop_ms']:.2f} ms to get there, {size_text(held['bytes_needed'])}"
        )
        yield f"  {held['reason']}"
        for standby in held["standbys"]:
            yield (
                f"  {standby['kind']} standby {node_text(standby['name'], standby['peer'])}: a pause of about "
                f"{standby['pause_ms'] / 1000:.1f} s, {standby['reason']}"
            )
        if not held["standbys"]:
            yield f"  no standby: {_if_lost(made)}"
    yield ""
    yield f"back to the entry: {made['return_ms']:.2f} ms; many streams together: {made['tokens_per_s']:.0f} tokens/s"
    for node in made["refused"]:
        yield f"{node_text(node['name'], node['peer'])} holds no range of its own: {node['reason']}"
    yield from made["notes"]


def _standby_text(standby: dict[str, Any]) -> str:
    return f"{node_text(standby['name'], standby['peer'])} {standby['kind']}"


def _if_lost(made: dict[str, Any]) -> str:
    if made["entry_serves_if_lost"]:
        return "if it is lost, this node loads the range itself"
    return "if it is lost, answers end until the model is offered again"
