"""One run of a script at level `world`, from nothing to its outcome. No trio, no daemons, no clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocols.errors import UserError
from simulations.running.expectations import missed
from simulations.running.outcome import Outcome
from simulations.scenarios.script import LinkSpec, Script
from simulations.trace import Trace
from simulations.world.faulting import WorldFaults
from simulations.world.world import World

BEGINS_S: Final = 10.0  # links and trees stand by then, and everybody has spoken
LOOK_S: Final = 0.1


def run_world(
    script: Script,
    *,
    trace: Trace | None = None,
    on_look: Callable[[World], bool] = lambda _: True,
    speakers: int | None = None,
) -> Outcome:
    """Runs it to its end in this thread, or until `on_look`, asked every `LOOK_S` of virtual time, says that it should not.

    `speakers` is how many nodes gossip their health; None: see `World`. The caller measures what it took on the wall. Raises `UserError` for faults and requests that a world has not.
    """
    if script.requests:
        raise UserError(
            "The world level has no requests: leave the workload out, or run it at level 'cluster'."
        )
    trace = trace or Trace()
    world = World(script.nodes, script.links or (LinkSpec(),), script.seed, speakers, trace.carried)
    faults = WorldFaults(world, BEGINS_S)
    for fault in script.faults:
        faults.plan(fault)
    until_s = BEGINS_S + script.duration_s
    while world.now_s < until_s and on_look(world):
        world.run(min(world.now_s + LOOK_S, until_s))
    world.observer.finish()
    detections = tuple(world.observer.detections)
    return Outcome(
        script.scenario,
        script.seed,
        len(script.nodes),
        world.now_s,
        0.0,
        world.agenda.events,
        trace.digest,
        violations=tuple(world.observer.violations),
        missed=missed(script, (), detections),
        detections=detections,
        marks=tuple(faults.marks),
    )
