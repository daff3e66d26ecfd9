"""Faults that a scenario leaves to the seed: which node, when exactly, for how long.

A draw holds a template: a fault without its time and its node, in which a pair of numbers is a range to draw from.

    [[draws]]
    draw = "each"
    from_s = 10
    every_s = 8
    fault = { kind = "crash", restart_s = [1, 4] }

Everything here is pure: the same chance gives the same faults.
"""

from __future__ import annotations

from typing import Annotated, Final, assert_never

import msgspec
from msgspec import Meta, Struct

from protocols.errors import UserError
from simulations.chance import Chance
from simulations.scenarios.faults import Fault, NodeName, Partition, Positive, Seconds
from simulations.scenarios.script import NodeSpec

# Not tuple[float, float]: msgspec 0.22 has a struct that holds one end the process if rubbish is collected just while it
# looks at its types.
Pair = Annotated[tuple[float, ...], Meta(min_length=2, max_length=2)]
WholePair = Annotated[tuple[Annotated[int, Meta(ge=0, le=1 << 20)], ...], Meta(min_length=2, max_length=2)]
Range = Annotated[float, Meta(ge=-1e6, le=1e6)] | Pair
Whole = Annotated[int, Meta(ge=0, le=1 << 20)] | WholePair
Template = dict[str, bool | int | float | str | Pair]
NodeNames = tuple[NodeName, ...]
Portion = Annotated[float, Meta(gt=0, le=1)]

TIMES_MAX: Final = 10_000  # faults of one draw: a slip of the pen is no reason to fill the memory


class _Draw(Struct, frozen=True, forbid_unknown_fields=True, tag_field="draw", kw_only=True):
    """`spare`: nodes that are never drawn."""

    fault: Template
    spare: NodeNames = ()


class Each(_Draw, frozen=True, tag="each", kw_only=True):
    """Every node once, in an order that is drawn, one every `every_s`."""

    from_s: Seconds
    every_s: Positive


class Some(_Draw, frozen=True, tag="some", kw_only=True):
    """`count` nodes, or a `share` of all, within `spread_s`."""

    at_s: Seconds
    count: Annotated[int, Meta(ge=1, le=1024)] | None = None
    share: Portion | None = None
    spread_s: Seconds = 0.0


class Churn(_Draw, frozen=True, tag="churn", kw_only=True):
    """At any moment the same chance for everybody, so that `share_per_min` of all nodes are befallen in a minute."""

    from_s: Seconds
    until_s: Seconds
    share_per_min: Annotated[float, Meta(gt=0, le=60)]


class Again(_Draw, frozen=True, tag="again", kw_only=True):
    """One node, `node` or a drawn one, `times` times."""

    from_s: Seconds
    every_s: Positive
    times: Annotated[int, Meta(ge=1, le=TIMES_MAX)]
    node: NodeName | None = None


class ZoneWide(_Draw, frozen=True, tag="zone", kw_only=True):
    """Everybody in a zone, `zone` or a drawn one, within `spread_s`."""

    at_s: Seconds
    zone: str | None = None
    spread_s: Seconds = 0.0


class Halves(Struct, frozen=True, forbid_unknown_fields=True, tag_field="draw", tag="halves", kw_only=True):
    """The nodes fall into two halves that are drawn; between them nothing gets through."""

    at_s: Seconds
    for_s: Range
    one_way: bool = False


Draw = Each | Some | Churn | Again | ZoneWide | Halves


def drawn(low_high: Range, chance: Chance) -> float:
    """A number, to the millisecond; a range is drawn from evenly."""
    if isinstance(low_high, tuple):
        low, high = low_high
        return round(chance.uniform(low, high), 3)
    return low_high


def whole(low_high: Whole, dice: Chance) -> int:
    """A whole number; of a range, both ends count."""
    if isinstance(low_high, tuple):
        low, high = low_high
        return dice.randint(low, high)
    return low_high


def begins_s(draw: Draw) -> float:
    """When the first fault of it may come."""
    match draw:
        case Each() | Churn() | Again():
            return draw.from_s
        case Some() | ZoneWide() | Halves():
            return draw.at_s
        case _:
            assert_never(draw)


def expand(draw: Draw, nodes: tuple[NodeSpec, ...], chance: Chance) -> list[Fault]:
    """The faults that it comes to. Raises `UserError` if the nodes are too few or of other zones."""
    if isinstance(draw, Halves):
        return [_halves(draw, nodes, chance)]
    names = [node.name for node in nodes if node.name not in draw.spare]
    if not names:
        raise UserError("a draw spares every node: leave one out of 'spare', or ask for more nodes.")
    hits = _hits(draw, names, nodes, chance)
    return [_made(draw.fault, round(at_s, 3), name, chance) for at_s, name in hits]


def _hits(
    draw: Each | Some | Churn | Again | ZoneWide,
    names: list[str],
    nodes: tuple[NodeSpec, ...],
    chance: Chance,
) -> list[tuple[float, str]]:
    """When, and whom."""
    match draw:
        case Each():
            order = chance.sample(names, len(names))
            return [(draw.from_s + turn * draw.every_s, name) for turn, name in enumerate(order)]
        case Some():
            count = min(len(names), draw.count or max(1, round((draw.share or 0) * len(nodes))))
            return [
                (draw.at_s + chance.uniform(0, draw.spread_s), name) for name in chance.sample(names, count)
            ]
        case Churn():
            return _churned(draw, names, chance)
        case Again():
            name = draw.node or chance.choice(names)
            return [(draw.from_s + turn * draw.every_s, name) for turn in range(draw.times)]
        case ZoneWide():
            zone = draw.zone or chance.choice(sorted({node.zone for node in nodes}))
            inside = [node.name for node in nodes if node.zone == zone and node.name in names]
            return [(draw.at_s + chance.uniform(0, draw.spread_s), name) for name in inside]
        case _:
            assert_never(draw)


def _churned(draw: Churn, names: list[str], chance: Chance) -> list[tuple[float, str]]:
    hits: list[tuple[float, str]] = []
    mean_s = 60.0 / (draw.share_per_min * len(names))
    at_s = draw.from_s + chance.expovariate(1 / mean_s)
    while at_s < draw.until_s and len(hits) < TIMES_MAX:
        hits.append((at_s, chance.choice(names)))
        at_s += chance.expovariate(1 / mean_s)
    return hits


def _halves(draw: Halves, nodes: tuple[NodeSpec, ...], chance: Chance) -> Fault:
    order = chance.sample([node.name for node in nodes], len(nodes))
    middle = len(order) // 2
    groups = tuple(sorted(order[:middle])), tuple(sorted(order[middle:]))
    return Partition(draw.at_s, groups, drawn(draw.for_s, chance), draw.one_way)


def _made(template: Template, at_s: float, node: str, chance: Chance) -> Fault:
    filled = {
        key: drawn(value, chance) if isinstance(value, tuple) else value for key, value in template.items()
    }
    fault: Fault = msgspec.convert({**filled, "at_s": at_s, "node": node}, Fault)
    return fault
