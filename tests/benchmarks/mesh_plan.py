"""The planner: how long a plan for a large mesh takes, and how far plans for small ones are from the best there are.

`plan_gap` is the worst over all meshes and over both strategies that have a best value: the time per token of one stream, and the
slowest stage or link of many. The best is found by `every_chain`, which shares nothing with the planner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

from inference.placement.planning.plan import Goal, Plan, Strategy
from inference.placement.planning.planner import make_plan
from protocols.errors import UserError
from tests.benchmarks.figures import Figure, figure_of
from tests.inference.placement.planning.drawn_mesh import draw_mesh
from tests.inference.placement.planning.every_chain import Mesh, least_slowest_ms, least_token_ms

NODES: Final = 200
LAYERS: Final = 80
LARGE_MESHES: Final = 9  # with a link between almost every pair, so 20,000 of them
REPEATS: Final = 3  # of one plan; the quickest counts, as the rest is what else the machine does
SMALL_MESHES: Final = 200
SMALL_NODES: Final = 8
SMALL_LAYERS: Final = 24


def measure(say: Callable[[str], None]) -> Iterator[Figure]:
    yield _plan_ms(say)
    yield _plan_gap(say)


def _plan_ms(say: Callable[[str], None]) -> Figure:
    """Of every strategy in turn on every mesh."""
    taken_ms: list[float] = []
    for seed in range(LARGE_MESHES):
        mesh = draw_mesh(Random(seed), NODES, LAYERS)
        taken_ms += [min(_taken_ms(mesh, strategy) for _ in range(REPEATS)) for strategy in Strategy]
        say(
            f"{NODES} nodes, {LAYERS} layers: "
            + ", ".join(f"{ms:.0f}" for ms in taken_ms[-len(Strategy) :])
            + " ms"
        )
    return figure_of("plan_200x80_ms", taken_ms, 0.5, "ms", digits=1)


def _taken_ms(mesh: Mesh, strategy: Strategy) -> float:
    began_s = time.perf_counter()
    _planned(mesh, strategy)
    return (time.perf_counter() - began_s) * 1e3


def _plan_gap(say: Callable[[str], None]) -> Figure:
    gaps: list[float] = []
    for seed in range(SMALL_MESHES):
        random = Random(seed)
        mesh = draw_mesh(random, random.randint(1, SMALL_NODES), random.randint(1, SMALL_LAYERS))
        gaps += [_gap(mesh, strategy) for strategy in (Strategy.INTERACTIVE, Strategy.THROUGHPUT)]
    say(f"{SMALL_MESHES} meshes of up to {SMALL_NODES} nodes: worst gap to the best chain {max(gaps):.2g}")
    return figure_of("plan_gap", gaps, 1.0, "share")


def _gap(mesh: Mesh, strategy: Strategy) -> float:
    """Infinite if a mesh with room is refused, or one without is not."""
    plan = _planned(mesh, strategy)
    if strategy is Strategy.INTERACTIVE:
        best_ms, planned_ms = least_token_ms(mesh), plan.token_ms if plan else math.inf
    else:
        best_ms, planned_ms = least_slowest_ms(mesh), 1e3 / plan.tokens_per_s if plan else math.inf
    if math.isinf(best_ms):
        return 0.0 if plan is None else math.inf
    return max(0.0, planned_ms / best_ms - 1)  # less is rounding


def _planned(mesh: Mesh, strategy: Strategy) -> Plan | None:
    """None if the mesh has no room for the model."""
    try:
        return make_plan(mesh.size, mesh.nodes, mesh.entry, Goal(strategy), mesh.links)
    except UserError:
        return None
