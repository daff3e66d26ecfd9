"""From a scenario and a seed to a script: every node, link, request and fault spelled out.

The rule of the file: pure, and the same seed gives the same script for ever. Each consumer draws from its own chance, so
that a fault more does not change what the clients ask.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from protocols.errors import UserError
from simulations.chance import Chance, chance
from simulations.scenarios.checks import check, nodes_named
from simulations.scenarios.draws import Draw, drawn, expand, whole
from simulations.scenarios.faults import Fault
from simulations.scenarios.schema import Machine, Nodes, Scenario, Workload
from simulations.scenarios.script import NodeSpec, Request, Script
from simulations.scenarios.swarm import swarmed

WORDS: Final = (
    "a",
    "the",
    "old",
    "river",
    "mill",
    "stone",
    "over",
    "under",
    "light",
    "bread",
    "night",
    "wind",
    "slow",
    "green",
    "seven",
    "along",
    "road",
    "house",
    "and",
    "of",
)
HOP_S: Final = 0.002  # between two stages, where nothing else is said of the links
ENTRY_S: Final = 0.5  # before the first request
PROMPT_CHARS_MAX: Final = 2000  # of a chat that goes on and on
MOVED_SHARE: Final = 0.2  # of the turns, which enter elsewhere


def draw(scenario: Scenario, seed: int, nodes: int | None = None, minutes: float | None = None) -> Script:
    """`nodes` and `minutes` take the place of what the scenario says: what it has planned is stretched to that time, and
    what follows the settling stays as long. Raises `UserError` if it can't be had so small or so short."""
    if minutes is not None:
        scenario = stretched(scenario, minutes * 60)
    if scenario.swarm is not None:
        scenario = swarmed(scenario, seed, nodes)
    elif nodes is not None:
        scenario = _sized(scenario, nodes)
    check(scenario)
    specs = _machines(scenario.nodes, seed)
    return Script(
        scenario=scenario.name,
        seed=seed,
        duration_s=scenario.duration_s,
        nodes=specs,
        layers=scenario.layers,
        links=scenario.links,
        requests=_requests(scenario, specs, seed),
        faults=_faults(scenario, specs, seed),
        settled_at_s=scenario.settled_at_s,
        core=scenario.core,
        expect=scenario.expect,
        engine=scenario.engine,
        level=scenario.level,
    )


def _sized(scenario: Scenario, count: int) -> Scenario:
    named = [*scenario.core, *scenario.workload.entries, *(request.entry for request in scenario.requests)]
    for fault in scenario.faults:
        named += nodes_named(fault)
    needed = max((int(name[1:]) + 1 for name in named), default=2)
    if count < max(2, needed):
        raise UserError(
            f"{scenario.name} can't be had with {count} nodes: ask for at least {max(2, needed)}."
        )
    return replace(scenario, nodes=replace(scenario.nodes, count=count))


def stretched(scenario: Scenario, duration_s: float) -> Scenario:
    """The same in another time."""
    rest_s = 0.0 if scenario.settled_at_s is None else scenario.duration_s - scenario.settled_at_s
    if duration_s <= max(rest_s, scenario.workload.rest_s):
        least_min = max(rest_s, scenario.workload.rest_s) / 60
        raise UserError(
            f"{scenario.name} needs more than {least_min:.1f} minutes, most of it to settle: ask for more."
        )
    factor = (duration_s - rest_s) / (scenario.duration_s - rest_s)
    return replace(
        scenario,
        duration_s=duration_s,
        settled_at_s=None if scenario.settled_at_s is None else duration_s - rest_s,
        faults=tuple(replace(fault, at_s=fault.at_s * factor) for fault in scenario.faults),
        requests=tuple(replace(request, at_s=request.at_s * factor) for request in scenario.requests),
        draws=tuple(_moved(each, factor) for each in scenario.draws),
    )


def _moved(each: Draw, factor: float) -> Draw:
    times = [name for name in ("at_s", "from_s", "until_s", "every_s") if name in each.__struct_fields__]
    return replace(each, **{name: getattr(each, name) * factor for name in times})


def _machines(nodes: Nodes, seed: int) -> tuple[NodeSpec, ...]:
    specs = []
    for index in range(nodes.count):
        machine, dice = nodes.machines[index % len(nodes.machines)], chance(seed, "machine", index)
        zone = nodes.zones[index % len(nodes.zones)] if nodes.zones else ""
        specs.append(
            NodeSpec(
                name=f"n{index}",
                zone=zone,
                layer_ms=drawn(machine.layer_ms, dice),
                row_ms=drawn(machine.row_ms, dice),
                memory_mb=whole(machine.memory_mb, dice),
                skew_s=drawn(machine.skew_s, dice),
                load_s=drawn(machine.load_s, dice),
            )
        )
    return tuple(specs)


def _requests(scenario: Scenario, nodes: tuple[NodeSpec, ...], seed: int) -> tuple[Request, ...]:
    work = scenario.workload
    entries = work.entries or tuple(node.name for node in nodes)
    token_s = scenario.layers * _mean(scenario.nodes.machines) / 1000 + HOP_S
    until_s = scenario.duration_s - work.rest_s
    asked = list(scenario.requests)
    for client in range(work.sessions):
        dice, turns = chance(seed, "client", client), chance(seed, "client", client, "turns")
        before: Request | None = None
        at_s = ENTRY_S + drawn(work.pause_s, dice)
        while at_s < until_s:
            request = _request(work, round(at_s, 3), entries, dice)
            if before is not None and turns.random() < work.repeated_share:
                request = _continued(before, request, turns)
            before = request
            asked.append(request)
            at_s += request.tokens * token_s + drawn(work.pause_s, dice)
    return tuple(sorted(asked, key=lambda request: request.at_s))


def _mean(machines: tuple[Machine, ...]) -> float:
    spans = [each.layer_ms if isinstance(each.layer_ms, tuple) else (each.layer_ms,) for each in machines]
    return sum(sum(span) / len(span) for span in spans) / len(spans)


def _request(work: Workload, at_s: float, entries: tuple[str, ...], dice: Chance) -> Request:
    entry, tokens = dice.choice(entries), whole(work.tokens, dice)
    prompt = _prompt(whole(work.prompt_chars, dice), dice)
    is_sampled, leaves = dice.random() < work.sampled_share, dice.random() < work.cancelled_share
    return Request(
        at_s=at_s,
        entry=entry,
        prompt=prompt,
        tokens=tokens,
        temperature=1.0 if is_sampled else 0.0,
        seed=dice.getrandbits(32) if is_sampled else 0,
        cancel_after=dice.randint(1, tokens) if leaves else None,
    )


def _continued(before: Request, request: Request, dice: Chance) -> Request:
    """The next turn of a chat, or the same once more where it would grow too long."""
    longer = f"{before.prompt} {request.prompt}"
    prompt = longer if len(longer) <= PROMPT_CHARS_MAX else before.prompt
    is_moved = dice.random() < MOVED_SHARE
    return replace(request, entry=request.entry if is_moved else before.entry, prompt=prompt)


def _prompt(length: int, dice: Chance) -> str:
    words = [dice.choice(WORDS)]
    while len(" ".join(words)) < length:
        words.append(dice.choice(WORDS))
    return " ".join(words)[:length]


def _faults(scenario: Scenario, nodes: tuple[NodeSpec, ...], seed: int) -> tuple[Fault, ...]:
    end_s = scenario.settled_at_s if scenario.settled_at_s is not None else scenario.duration_s
    faults = list(scenario.faults)
    for index, each in enumerate(scenario.draws):
        drawn_faults = expand(each, nodes, chance(seed, "draw", index))
        faults += [fault for fault in drawn_faults if fault.at_s < end_s]
    return tuple(sorted(faults, key=lambda fault: fault.at_s))
