"""What the types of a scenario file can't say: that its parts fit together, and that what it expects is possible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from protocols import limits
from protocols.errors import UserError
from simulations.scenarios.draws import Again, Churn, Draw, Halves, Some, ZoneWide, begins_s
from simulations.scenarios.faults import Fault, Offer, Partition, Reset, SlowLink
from simulations.scenarios.schema import Scenario
from simulations.scenarios.script import LinkSpec

EVERYBODY: Final = "*"
ZONE: Final = "zone:"
TORCH_LAYERS: Final = 8
"""Of the model that comes with weft, which is what the real engine runs."""


def check(scenario: Scenario) -> None:
    """Raises `UserError` with the first thing that can't be, and what to do about it."""
    for complaint in _complaints(scenario):
        raise UserError(f"{scenario.name}: {complaint}.")


def nodes_named(fault: Fault) -> tuple[str, ...]:
    """All that a fault names."""
    match fault:
        case Partition(groups=groups):
            return tuple(name for group in groups for name in group)
        case SlowLink(node=node, other=other):
            return (node,) if other is None else (node, other)
        case Reset(node=node, other=other):
            return node, other
        case Offer(node=node, on=on):
            return node, *on
        case _:
            return (fault.node,)


def _complaints(scenario: Scenario) -> Iterator[str]:
    yield from _of_level(scenario)
    yield from _of_times(scenario)
    yield from _of_names(scenario)
    yield from _of_faults(scenario)
    for draw in scenario.draws:
        yield from _of_draw(scenario, draw)
    yield from _of_ranges(scenario)
    yield from _of_swarm(scenario)
    yield from _of_expectations(scenario)


def _of_level(scenario: Scenario) -> Iterator[str]:
    asks = scenario.workload.sessions or scenario.requests or scenario.swarm
    if scenario.level == "world" and asks:
        yield "nobody asks at level 'world': set workload.sessions to 0 and drop requests and swarm, or leave level out"
    if scenario.engine == "torch" and scenario.layers != TORCH_LAYERS:
        yield f"the engine 'torch' runs weft-tiny, not {scenario.layers} layers: set layers to {TORCH_LAYERS}"


def _of_times(scenario: Scenario) -> Iterator[str]:
    settled_at_s, duration_s = scenario.settled_at_s, scenario.duration_s
    if settled_at_s is not None and settled_at_s >= duration_s:
        yield f"it settles at {settled_at_s:g} s and ends at {duration_s:g} s: let it run longer"
    if scenario.workload.sessions and scenario.workload.rest_s >= duration_s:
        yield f"nobody asks in the last {scenario.workload.rest_s:g} s, which is all of it: lower workload.rest_s"
    for request in scenario.requests:
        if request.at_s >= duration_s:
            yield f"a request comes at {request.at_s:g} s, after the end at {duration_s:g} s: move it forward"


def _of_names(scenario: Scenario) -> Iterator[str]:
    known = {f"n{index}" for index in range(scenario.nodes.count)}
    named = [*scenario.core, *scenario.workload.entries, *(request.entry for request in scenario.requests)]
    for fault in scenario.faults:
        named += nodes_named(fault)
    for draw in scenario.draws:
        named += () if isinstance(draw, Halves) else draw.spare
        named += (draw.node,) if isinstance(draw, Again) and draw.node else ()
    for name in named:
        if name not in known:
            yield f"there is no node {name!r} among n0 to n{len(known) - 1}: raise nodes.count or name another"
    for link in scenario.links:
        yield from _of_link(scenario, link, known)


def _of_link(scenario: Scenario, link: LinkSpec, known: set[str]) -> Iterator[str]:
    for pattern in (link.one, link.two):
        if pattern.startswith(ZONE):
            if pattern.removeprefix(ZONE) not in scenario.nodes.zones:
                yield f"a link names {pattern!r}, and there is no such zone: add it to nodes.zones"
        elif pattern != EVERYBODY and pattern not in known:
            yield f"a link names {pattern!r}, and there is no such node: raise nodes.count or name another"


def _of_faults(scenario: Scenario) -> Iterator[str]:
    for fault in scenario.faults:
        what = f"the fault {_kind(fault)!r} at {fault.at_s:g} s"
        if fault.at_s >= scenario.duration_s:
            yield f"{what} comes after the end at {scenario.duration_s:g} s: move it forward or let it run longer"
        if scenario.settled_at_s is not None and fault.at_s >= scenario.settled_at_s:
            hit = [name for name in nodes_named(fault) if not scenario.core or name in scenario.core]
            whom = f"befalls {hit[0]} of the core" if hit else "comes"
            yield f"{what} {whom} after it has settled at {scenario.settled_at_s:g} s: move one of the two"
        if isinstance(fault, Partition) and len(set(nodes_named(fault))) < len(nodes_named(fault)):
            yield f"{what} has a node in two groups: leave it in one"


def _of_draw(scenario: Scenario, draw: Draw) -> Iterator[str]:
    end_s = scenario.settled_at_s if scenario.settled_at_s is not None else scenario.duration_s
    what = f"the draw {_kind(draw)!r}"
    if begins_s(draw) >= end_s:
        yield f"{what} begins at {begins_s(draw):g} s, after the end or the settling at {end_s:g} s: move it forward"
    if isinstance(draw, Churn) and draw.until_s <= draw.from_s:
        yield f"{what} is until {draw.until_s:g} s and from {draw.from_s:g} s: swap them"
    if isinstance(draw, Some) and (draw.count is None) == (draw.share is None):
        named = "neither 'count' nor" if draw.count is None else "both 'count' and"
        yield f"{what} names {named} 'share': give one of the two"
    if isinstance(draw, ZoneWide) and not scenario.nodes.zones:
        yield f"{what} needs zones: name some in nodes.zones"
    if isinstance(draw, ZoneWide) and draw.zone is not None and draw.zone not in scenario.nodes.zones:
        yield f"{what} names the zone {draw.zone!r}: add it to nodes.zones"
    if not isinstance(draw, Halves):
        yield from _of_template(what, draw)


def _of_template(what: str, draw: Draw) -> Iterator[str]:
    assert not isinstance(draw, Halves)
    taken = {"at_s", "node"} & draw.fault.keys()
    if taken:
        yield f"{what} sets {min(taken)!r} of its fault, which is drawn: take it out"
    lows = {key: value[0] if isinstance(value, tuple) else value for key, value in draw.fault.items()}
    try:
        msgspec.convert({**lows, "at_s": 0.0, "node": "n0"}, Fault)
    except msgspec.ValidationError as error:
        yield f"{what} has a fault that is none ({str(error).replace('`', chr(39))}): mend it"


def _of_ranges(scenario: Scenario) -> Iterator[str]:
    work = scenario.workload
    ranges = {"tokens": work.tokens, "prompt_chars": work.prompt_chars, "pause_s": work.pause_s}
    for index, machine in enumerate(scenario.nodes.machines):
        for key in machine.__struct_fields__:
            ranges[f"nodes.machines[{index}].{key}"] = getattr(machine, key)
    for draw in scenario.draws:
        template = {"for_s": draw.for_s} if isinstance(draw, Halves) else draw.fault
        ranges |= {
            f"{key} of a {_kind(draw)!r}": value
            for key, value in template.items()
            if isinstance(value, tuple)
        }
    if scenario.swarm is not None:
        ranges |= {"swarm.nodes": scenario.swarm.nodes, "swarm.kinds": scenario.swarm.kinds}
    for key, value in ranges.items():
        if isinstance(value, tuple) and value[0] > value[1]:
            yield f"{key} goes from {value[0]:g} to {value[1]:g}: write the smaller one first"
    for key, whole in (("tokens", work.tokens), ("prompt_chars", work.prompt_chars)):
        lowest = whole[0] if isinstance(whole, tuple) else whole
        if lowest < 1:
            yield f"workload.{key} may be {lowest}: raise it to 1"


def _of_swarm(scenario: Scenario) -> Iterator[str]:
    if scenario.swarm is not None and not 2 <= scenario.swarm.nodes[0] <= scenario.swarm.nodes[1] <= 64:
        yield "swarm.nodes is not within 2 and 64: change it"
    if scenario.swarm is not None and scenario.swarm.kinds[0] < 1:
        yield "swarm.kinds may be 0, and then nothing would happen: raise it to 1"


def _of_expectations(scenario: Scenario) -> Iterator[str]:
    expect = scenario.expect
    asks = scenario.workload.sessions or scenario.requests or scenario.swarm
    if expect.finished_share and not asks:
        yield "it expects requests to finish, and nobody asks: add a workload"
    if expect.detection_max_s is not None and expect.detection_max_s < limits.REFUTE_REFUSED_S:
        yield (
            f"it expects deaths to be known within {expect.detection_max_s:g} s, and a member has"
            f" {limits.REFUTE_REFUSED_S:g} s to object: raise expect.detection_max_s"
        )


def _kind(tagged: Fault | Draw) -> str:
    return str(tagged.__struct_config__.tag)
