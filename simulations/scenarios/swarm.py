"""Swarm testing: first a profile is drawn (which kinds of faults are on, how often, how many nodes, how good the links), then
events. A run with few kinds of faults goes deeper into each than one in which everything happens at once (Groce et al.,
"Swarm Testing", ISSTA 2012).

Until `settled_at_s` anything may fail, all nodes at once included. Then a core of nodes is healed, to which n0 always
belongs, because the whole model lies there; who is outside stays as it is. Clients go on asking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from protocols.errors import UserError
from simulations.chance import Chance, chance
from simulations.scenarios import faults as f
from simulations.scenarios.draws import whole
from simulations.scenarios.faults import Fault
from simulations.scenarios.schema import Machine, Nodes, Scenario, Workload
from simulations.scenarios.script import LinkSpec

FIRST_S: Final = 2.0  # the clients have begun
ZONES: Final = ("here", "there")


@dataclass(frozen=True, slots=True)
class Profile:
    """What kind of a bad day it is."""

    nodes: int
    kinds: tuple[str, ...]
    events_per_min: float
    links: tuple[LinkSpec, ...]
    machines: tuple[Machine, ...]
    workload: Workload
    core: tuple[str, ...]


def swarmed(scenario: Scenario, seed: int, nodes: int | None = None) -> Scenario:
    """The scenario with everything drawn that it leaves open. Raises `UserError` for fewer than two nodes."""
    assert scenario.swarm is not None
    if nodes is not None and nodes < 2:
        raise UserError(f"{scenario.name} can't be had with {nodes} nodes: ask for at least 2.")
    profile = draw_profile(scenario, chance(seed, "swarm", "profile"), nodes)
    until_s = scenario.settled_at_s if scenario.settled_at_s is not None else scenario.duration_s
    events = draw_events(profile, until_s, chance(seed, "swarm", "events"))
    return replace(
        scenario,
        nodes=Nodes(profile.nodes, ZONES, profile.machines),
        links=(*scenario.links, *profile.links),
        workload=profile.workload,
        faults=(*scenario.faults, *events),
        core=scenario.core or profile.core,
    )


def draw_profile(scenario: Scenario, dice: Chance, nodes: int | None = None) -> Profile:
    bounds = scenario.swarm
    assert bounds is not None
    count = nodes or whole(bounds.nodes, dice)
    kinds = dice.sample(sorted(KINDS), min(len(KINDS), whole(bounds.kinds, dice)))
    others = [f"n{index}" for index in range(1, count)]
    is_whole = dice.random() < 0.6
    core = () if is_whole else ("n0", *sorted(dice.sample(others, dice.randint(1, len(others)))))
    return Profile(
        count,
        tuple(sorted(kinds)),
        dice.choice((4.0, 10.0, 25.0, 60.0)),
        _links(dice),
        tuple(_machine(dice) for _ in range(dice.randint(1, 3))),
        _workload(scenario.workload, dice),
        core,
    )


def _machine(dice: Chance) -> Machine:
    return Machine(layer_ms=(2.0, dice.choice((4.0, 12.0))), load_s=(0.1, dice.choice((0.1, 0.5, 1.0, 4.0))))


def _links(dice: Chance) -> tuple[LinkSpec, ...]:
    near = LinkSpec(latency_ms=dice.choice((0.5, 2.0, 10.0)), loss=dice.choice((0.0, 0.0, 0.001, 0.01)))
    if dice.random() < 0.5:
        return (near,)
    far = LinkSpec(
        "zone:here",
        "zone:there",
        latency_ms=dice.choice((10.0, 40.0, 80.0)),
        jitter_ms=dice.choice((0.0, 5.0)),
        bandwidth_mbit=dice.choice((None, 20.0, 200.0)),
        loss=dice.choice((0.0, 0.005, 0.02)),
    )
    return near, far


def _workload(given: Workload, dice: Chance) -> Workload:
    return replace(
        given,
        sessions=dice.randint(1, 4),
        tokens=dice.choice(((5, 20), (20, 60), (60, 120))),
        # The long ones take more frames than a stage gives credits for.
        prompt_chars=dice.choice((given.prompt_chars, given.prompt_chars, (100, 1500))),
        sampled_share=dice.choice((0.0, 0.5, 1.0)),
        cancelled_share=dice.choice((0.0, 0.1, 0.4)),
        repeated_share=dice.choice((0.0, 0.5, 0.8)),
    )


def draw_events(profile: Profile, until_s: float, dice: Chance) -> tuple[Fault, ...]:
    """The faults of the kinds that are on, from `FIRST_S` until `until_s`."""
    names = [f"n{index}" for index in range(profile.nodes)]
    events: list[Fault] = []
    # One: where a range and its standby are both lost with their disks, it is gone until somebody offers the model again.
    losable = dice.sample(names[1:], (profile.nodes - 1) // 2)[:1]
    at_s = FIRST_S + dice.expovariate(profile.events_per_min / 60)
    while at_s < until_s:
        made = KINDS[dice.choice(profile.kinds)](round(at_s, 3), names, losable, dice)
        events += [event for event in made if event.at_s < until_s]
        at_s += dice.expovariate(profile.events_per_min / 60)
    return tuple(sorted(events, key=lambda event: event.at_s))


Make = Callable[[float, list[str], list[str], Chance], list[Fault]]
"""When, all nodes, those whose disks may get lost (each once: it takes them out), and the dice."""


def _later(at_s: float, dice: Chance, within_s: float) -> float:
    return round(at_s + dice.uniform(0, within_s), 3)


def _span(dice: Chance, *spans: tuple[float, float]) -> float:
    """Mostly from the first, so that short faults come often and long ones are seen too."""
    low_s, high_s = spans[min(dice.randrange(2 * len(spans)) // 2, len(spans) - 1)]
    return round(dice.uniform(low_s, high_s), 3)


def _back(dice: Chance) -> float | None:
    return None if dice.random() < 0.1 else _span(dice, (0.05, 1.0), (1.0, 8.0), (8.0, 30.0))


def _crash(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    return [f.Crash(at_s, dice.choice(names), _back(dice), silent=dice.random() < 0.4)]


def _bounce(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    """Down again while it comes up."""
    node = dice.choice(names)
    return [f.Crash(_later(at_s, dice, 3), node, _span(dice, (0.05, 1.0))) for _ in range(dice.randint(2, 4))]


def _mass(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    hit = dice.sample(names, dice.randint(2, len(names)))
    is_silent = dice.random() < 0.5
    return [f.Crash(_later(at_s, dice, 0.5), node, _back(dice), is_silent) for node in hit]


def _disk_fault(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    node = dice.choice(names)
    for_s = _span(dice, (1.0, 10.0), (10.0, 30.0))
    match dice.randrange(5):
        case 0:
            return [f.DiskFull(at_s, node, for_s)]
        case 1:
            return [f.DiskSlow(at_s, node, for_s, _span(dice, (0.002, 0.02), (0.02, 0.2)))]
        case 2 if losable:
            # Without a word, it is missed only when somebody else has its address.
            is_silent = dice.random() < 0.5
            restart_s = _span(dice, (0.05, 1.0), (1.0, 8.0))
            return [f.Crash(at_s, losable.pop(), restart_s, is_silent, disk="lost")]
        case 3:
            return [f.Crash(at_s, node, _span(dice, (0.1, 5.0)), silent=True, disk="rolled_back")]
        case _:
            return [f.Crash(at_s, node, _span(dice, (0.1, 5.0)), silent=True, disk="torn")]


def _leave(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    return [f.Leave(at_s, dice.choice(names), _back(dice))]


def _pause(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    return [f.Pause(at_s, dice.choice(names), _span(dice, (0.1, 2.0), (2.0, 8.0), (8.0, 30.0)))]


def _stall(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    every_s = _span(dice, (0.3, 2.0))
    stall_s = round(every_s * dice.uniform(0.1, 0.8), 3)
    return [f.Stall(at_s, dice.choice(names), _span(dice, (2.0, 15.0)), stall_s, every_s)]


def _worker(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    node = dice.choice(names)
    match dice.randrange(3):
        case 0:
            return [f.WorkerCrash(at_s, node)]
        case 1:
            return [f.WorkerHang(at_s, node, _span(dice, (0.5, 5.0), (5.0, 20.0)))]
        case _:
            return [f.WorkerSlow(at_s, node, _span(dice, (2.0, 20.0)), dice.choice((2.0, 5.0, 20.0)))]


def _partition(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    order = dice.sample(names, len(names))
    cut = dice.randint(1, len(order) - 1)
    groups = [tuple(sorted(order[:cut])), tuple(sorted(order[cut:]))]
    if len(groups[1]) > 1 and dice.random() < 0.3:
        # A bridge: it is in no group, and so reaches everybody.
        groups[1] = groups[1][1:]
    is_one_way = dice.random() < 0.3
    return [f.Partition(at_s, tuple(groups), _span(dice, (0.5, 5.0), (5.0, 25.0)), is_one_way)]


def _link(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    node, other = dice.sample(names, 2)
    if dice.random() < 0.3:
        return [f.Reset(at_s, node, other)]
    return [
        f.SlowLink(
            at_s,
            node,
            _span(dice, (1.0, 10.0), (10.0, 30.0)),
            other if dice.random() < 0.6 else None,
            latency_ms=dice.choice((0.0, 50.0, 300.0)),
            jitter_ms=dice.choice((0.0, 30.0)),
            bandwidth_mbit=dice.choice((None, 1.0, 10.0)),
            loss=dice.choice((0.0, 0.02, 0.2)),
        )
    ]


def _clock(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    # Beyond `HEALTH_TTL_S`, so that words come that are long over or of days to come, and beyond `CLOCK_SKEW_S`, so that no
    # certificate holds; seldom near either.
    by_s = round(dice.choice((-1, 1)) * _span(dice, (0.01, 2.0), (2.0, 100.0), (700.0, 4000.0)), 3)
    return [f.ClockJump(at_s, dice.choice(names), by_s, dice.choice((0.0, -200.0, 200.0)))]


def _upgrade(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    return [f.Upgrade(at_s, dice.choice(names), dice.randint(1, 3), _span(dice, (0.2, 3.0)))]


def _offer(at_s: float, names: list[str], losable: list[str], dice: Chance) -> list[Fault]:
    """By one node to all or to some, perhaps while another does the same, and by somebody who may lose patience."""
    hit = dice.sample(names, min(len(names), dice.choice((1, 1, 2))))
    return [
        f.Offer(
            _later(at_s, dice, 1.0),
            node,
            _some(names, dice) if dice.random() < 0.3 else (),
            _span(dice, (5.0, 20.0), (0.02, 2.0)),
        )
        for node in hit
    ]


def _some(names: list[str], dice: Chance) -> tuple[str, ...]:
    return tuple(sorted(dice.sample(names, dice.randint(2, len(names)))))


KINDS: Final[dict[str, Make]] = {
    "bounce": _bounce,
    "clock": _clock,
    "crash": _crash,
    "disk": _disk_fault,
    "leave": _leave,
    "link": _link,
    "mass": _mass,
    "offer": _offer,
    "partition": _partition,
    "pause": _pause,
    "stall": _stall,
    "upgrade": _upgrade,
    "worker": _worker,
}
