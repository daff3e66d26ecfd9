"""`weft memory`: where this node's memory is, and what it does if that is short."""

from __future__ import annotations

from typing import Any

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import rows_of, size_text
from protocols.ids import shortened


@click.command()
@home_option
@json_option
def memory(home: str | None, as_json: bool) -> None:
    """What this node's weights and sessions take, what is left, and what the node does if it is short of memory.

    Sessions reserve all their rows when they open; 'used' is what they have written. While memory is short (high) the node opens no
    more sessions and takes no more layers; before it runs out (critical) it also computes fewer rows at a time and lets go of
    standbys.
    """
    with connect(home) as client:
        found = client.call("memory")
    if as_json:
        echo_json(found)
        return
    for line in _lines(found):
        click.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    level = found["level"] + (f": {found['reason']}" if found["reason"] else "")
    facts = [("memory", level), *(("", does) for does in found["does"]), *_facts(found)]
    shards = ("model", "layers", "weights", "sessions", "reserved", "used")
    sessions = ("session", "model", "layers", "reserved", "used")
    lines = [
        *(f"{label:<8} {text}" for label, text in facts),
        *_table("shards", shards, [_shard(each) for each in found["shards"]]),
        *_table("sessions", sessions, [_cache(each) for each in found["caches"]]),
    ]
    if found["orphans_closed"]:
        lines.append(f"closed so far, for want of a session: {found['orphans_closed']} caches")
    return lines


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    machine, worker = found["machine"], found["worker"]
    sizes = {key: size_text(value) for key, value in (machine | worker).items() if key.endswith("_bytes")}
    process = f"pid {worker['pid']}" if worker["pid"] is not None else "down"
    taken = f"{sizes['resident_bytes']} resident, {sizes['private_bytes']} of them its own"
    reserved = f"{sizes['reserved_bytes']} reserved by sessions ({sizes['used_bytes']} used)"
    kept = f"{sizes['free_bytes']} free ({sizes['prefix_bytes']} hold prompts for later sessions)"
    return [
        (
            "group" if "group" in machine["limited_by"] else "machine",
            f"{sizes['available_bytes']} available of {sizes['total_bytes']}",
        ),
        ("worker", f"{process}, {taken}; at most {sizes['limit_bytes']}"),
        (
            "budget",
            f"{sizes['budget_bytes']}{_of_card(worker)}: {sizes['weights_bytes']} weights, {reserved}, {kept}",
        ),
    ]


def _of_card(worker: dict[str, Any]) -> str:
    return "" if worker["device"] == "cpu" else f" of the {worker['device']} card"


def _shard(shard: dict[str, Any]) -> tuple[str, ...]:
    return (
        shard["model"],
        shard["range"],
        size_text(shard["weights_bytes"]),
        str(shard["caches"]),
        size_text(shard["reserved_bytes"]),
        size_text(shard["used_bytes"]),
    )


def _cache(cache: dict[str, Any]) -> tuple[str, ...]:
    known = "" if cache["known"] else " (not known here)"
    return (
        shortened(cache["session"]) + known,
        cache["model"],
        cache["range"],
        size_text(cache["reserved_bytes"]),
        size_text(cache["used_bytes"]),
    )


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"{title}:", *rows_of(heads, rows, "  ")] if rows else [f"{title}: none"]
