"""`weft status`: one screen, or one object. Exits 0 if ready, 1 if not, 3 if there is no daemon."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.options import connect, echo_json, home_option, json_option
from node.cli.tables import duration_text, node_text, rows_of, size_text
from protocols import limits
from protocols.exit_codes import ExitCode
from protocols.ids import shortened

# What happens wherever nodes come and go, and words are told twice: in --json, and no news to anybody who looks.
ORDINARY: Final = frozenset({"Disconnected", "TimedOut", "gossip replayed", "gossip expired", "gossip ahead"})
CLOCKS: Final = (
    f"clock: others date what they say more than {limits.CLOCK_SKEW_S / 60:.0f} min ahead of this node's clock; "
    "set it if it is wrong, else theirs"
)
BEHIND: Final = (
    f"clock: others date what they say more than {limits.HEALTH_TTL_S:.0f} s ahead of this node's clock, and so hear nothing of "
    "how it is; set it if it is wrong, else theirs"
)
TWIN: Final = (
    "key: another node speaks with this node's key, such as from a copy of its home; "
    "stop one of them, and join with a home of its own (WEFT_HOME)"
)


@click.command()
@home_option
@json_option
@click.option("-q", "--quiet", is_flag=True, help="The exit code alone.")
@click.pass_context
def status(ctx: click.Context, home: str | None, as_json: bool, quiet: bool) -> None:
    """How the daemon is and what it holds. Exits 0 if it is ready, 1 if not, 3 if there is none."""
    with connect(home) as client:
        found = client.call("status")
    if as_json:
        echo_json(found)
    elif not quiet:
        for line in _lines(found):
            click.echo(line)
    ctx.exit(ExitCode.OK if found["state"] == "ready" else ExitCode.FAILED)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [
        f"weft {found['version']}: {found['state']}, up {duration_text(found['uptime_s'])}, pid {found['pid']}",
        f"home     {found['home']}",
    ]
    if "peer" not in found:
        return lines
    worker = found["worker"]
    return [
        *lines,
        f"node     {found['name']}, peer {found['peer']}",
        f"network  {found['network']}",
        *(f"{plane:<8} {', '.join(addresses)}" for plane, addresses in found["addresses"].items()),
        f"http     {found['http'] or 'not yet'}",
        f"worker   {worker['state']}, {size_text(worker['free_bytes'])} free",
        *([f"memory   {worker['shortage']}: see 'weft memory'"] if worker["shortage"] else []),
        *_section("members", ("node", "state"), [_member(member) for member in found["members"]]),
        *_section(
            "shards",
            ("model", "layers", "kind", "numerics", "sessions"),
            [_shard(s) for s in found["shards"]],
        ),
        *_section("connections", ("peer", "plane", "security", "dialled by"), _connections(found)),
        *_faults(found["faults"]),
    ]


def _member(member: dict[str, Any]) -> tuple[str, ...]:
    return node_text(member["name"], member["peer"]), "up" if member["up"] else "down"


def _connections(found: dict[str, Any]) -> list[tuple[str, ...]]:
    names = {member["peer"]: member["name"] for member in found["members"]}
    return [
        (
            node_text(names.get(connection["peer"], ""), connection["peer"]),
            connection["plane"],
            connection["security"],
            "this node" if connection["dialled"] else "the peer",
        )
        for connection in found["connections"]
    ]


def _shard(shard: dict[str, Any]) -> tuple[str, ...]:
    kind = "standby" if shard["standby"] else "serving"
    model = f"{shard['model']} ({shortened(shard['digest'])})"
    return (model, shard["range"], kind, shard["numerics"], str(shard["sessions"]))


def _faults(faults: dict[str, int]) -> list[str]:
    """One line, and another where a clock must be wrong; nothing if there is nothing to tell."""
    told = [(-times, name) for name, times in faults.items() if name not in ORDINARY]
    lines = (
        [f"refused so far: {', '.join(f'{-times} {name}' for times, name in sorted(told))}"] if told else []
    )
    if faults.get("gossip future"):
        lines.append(CLOCKS)
    elif faults.get("gossip ahead"):
        lines.append(BEHIND)
    if faults.get("gossip contested"):
        lines.append(TWIN)
    return lines


def _section(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"{title}:", *rows_of(heads, rows, "  ")] if rows else [f"{title}: none"]
