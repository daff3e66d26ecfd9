"""`weft peers`: who is in the mesh, how they are and what is held against them; `--why`: the evidence, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import node_text, rows_of, size_text

_OUTCOMES: Final = {
    "served": "served well",
    "late": "was late",
    "failed": "failed",
    "wrong": "computed wrongly",
    "refused": "refused",
    "disputed": "was in a dispute",
    "audited": "was checked and right",
}


@click.command()
@click.option("--why", "peer", metavar="PEER", help="The evidence on one member, by name or id.")
@home_option
@json_option
def peers(peer: str | None, home: str | None, as_json: bool) -> None:
    """The members of the mesh: what they hold, how they are, and how well they have served this node.

    A score of 1 has nothing against it, a member with 0 computed wrongly. Counts fade: good ones by half in 7 days, the
    others in 28.
    """
    with connect(home) as client:
        found = client.call("peers") if peer is None else client.call("why_peer", {"peer": peer})
    if as_json:
        echo_json(found)
        return
    for line in _table(found["peers"]) if peer is None else _why(found):
        click.echo(line)


def _table(listed: list[dict[str, Any]]) -> Iterator[str]:
    heads = (
        "peer", "state", "score", "served", "failed", "late", "wrong",
        "load", "lag", "memory free", "rtt", "layers",
    )  # fmt: skip
    yield from rows_of(heads, [_row(each) for each in listed])


def _row(each: dict[str, Any]) -> tuple[str, ...]:
    health = each["health"]
    return (
        node_text(each["name"], each["peer"]),
        each["state"],
        f"{each['score']:.2f}",
        *(f"{each[count]:g}" for count in ("served", "failed", "late", "wrong")),
        f"{health['load']:.0%}" if health else "-",
        f"{health['loop_lag_ms']:.0f} ms" if health else "-",
        f"{size_text(health['memory_free_bytes'])} of {size_text(health['memory_total_bytes'])}"
        if health
        else "-",
        f"{each['rtt_ms']:.1f} ms" if each["rtt_ms"] is not None else "-",
        ", ".join(each["ranges"]) or "none",
    )


def _why(found: dict[str, Any]) -> Iterator[str]:
    about = found["peer"]
    name = node_text(about["name"], about["peer"])
    yield f"{name}, {about['state']}: {_verdict(about['score'])} (overall {found['overall']:.2f}; a stranger has 0.19)."
    yield "What counts, for and against, seen here and told by others:"
    rows = [
        (
            facet["facet"],
            f"{facet['own_good']:g}",
            f"{facet['own_bad']:g}",
            f"{facet['told_good']:g}",
            f"{facet['told_bad']:g}",
            f"{facet['lower_bound']:.2f}",
        )
        for facet in found["facets"]
    ]
    yield from rows_of(("", "for", "against", "told for", "told against", "at least"), rows, "  ")
    yield from _section("Seen here, the newest first", map(_happening, found["happenings"]))
    yield from _section("Told by others", map(_report, found["reports"]))


def _verdict(score: float) -> str:
    if score >= 1:
        return "nothing is held against it"
    if score <= 0:
        return "it computed wrongly, and is chosen only where nobody else is left"
    return f"score {score:.2f}, so that it is chosen as if it were {min(20.0, 1 / score):.1f} times slower"


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    listed = list(lines)
    yield f"{title}:" if listed else f"{title}: nothing."
    yield from (f"  {line}" for line in listed)


def _happening(each: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(each["wall_s"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{when}: it {_OUTCOMES[each['outcome']]}" + (f" ({each['detail']})" if each["detail"] else "")


def _report(each: dict[str, Any]) -> str:
    counts = ", ".join(f"{each[count]:g} {count}" for count in ("served", "failed", "late", "wrong"))
    said = f"{node_text(each['name'], each['reporter'])} saw {counts}"
    agreed, contradicted = each["agreed"], each["contradicted"]
    if not agreed and not contradicted:
        return f"{said}: counts for nothing, as it has not yet agreed with anything that was seen here"
    tested = f"it agreed with this node on {agreed} of {agreed + contradicted} peers that both know"
    if not each["trust"]:
        return f"{said}: counts for nothing, as {tested}"
    family = (
        f", together with all whom {each['group_name']} brought in"
        if each["group_name"] != each["name"]
        else ""
    )
    return f"{said}: counts for {each['counted']:g} of {each['claimed']:g}, as {tested}{family}"
