"""A run at the level of pure machines, as `running.run` does one of whole daemons."""

from __future__ import annotations

import time

from msgspec.structs import replace

from simulations.running.guard import Guard
from simulations.running.outcome import Outcome
from simulations.running.progress import OnProgress, Progress
from simulations.scenarios.script import Script
from simulations.trace import Trace
from simulations.world.running import BEGINS_S, run_world
from simulations.world.world import World


def run_at_world_level(
    script: Script, trace: Trace, on_progress: OnProgress | None, *, stop_at_first: bool
) -> Outcome:
    """The first SIGINT ends it. Raises `UserError` for what a world does not have."""
    guard = Guard(lambda: None)
    until_s = BEGINS_S + script.duration_s

    def look(world: World) -> bool:
        violations = world.observer.violations
        if on_progress is not None:
            on_progress(Progress(world.now_s, until_s, world.agenda.events, 0, len(violations)))
        return not (guard.is_interrupted or (violations and stop_at_first))

    began_s = time.perf_counter()
    with guard.interruptible():
        outcome = run_world(script, trace=trace, on_look=look)
    is_whole = outcome.virtual_s >= until_s
    return replace(
        outcome,
        wall_s=time.perf_counter() - began_s,
        missed=outcome.missed if is_whole else (),
        interrupted=guard.is_interrupted and not is_whole,
    )
