"""How much virtual time passes in a second of this machine, at three sizes. Counted from when the mesh is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from protocols.errors import LocalFault
from simulations.running.outcome import Outcome
from simulations.running.run import Progress, run_script
from simulations.scenarios.script import NodeSpec, Request, Script
from simulations.world.running import BEGINS_S, run_world
from simulations.world.world import World
from tests.benchmarks.figures import Figure, percentile

RUNS: Final = 3

TEN_S: Final = 60.0
TOKENS_PER_S: Final = 20
LAYERS: Final = 12
LAYER_MS: Final = 3.8  # 46 ms for all layers, and four hops of a millisecond: 20 tokens a second
HOLDERS: Final = ("n0", "n1", "n2")
ENTRIES: Final = ("n3", "n4")
BEGIN_S: Final = 2.0  # by then every node has heard of the model

MANY_S: Final = 10.0  # each of the three windows
WORLD_S: Final = 5.0

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`virtual_per_wall_10`, `virtual_per_wall_200` and `virtual_per_wall_1000`, with the bars 40, 1 and 0.2."""
    yield measure_ten(say)
    yield measure_many(say)
    yield measure_world(say)


class Stopwatch:
    """Speeds of windows of virtual time, by the wall and by the CPU time of this process."""

    def __init__(self, window_s: float) -> None:
        self.walls: list[float] = []
        self.cpus: list[float] = []
        self._window_s = window_s
        self._since: tuple[float, float, float] | None = None

    def tick(self, at_s: float) -> None:
        """It is `at_s` in the simulation. The first call begins."""
        now = at_s, time.perf_counter(), time.process_time()
        if self._since is None:
            self._since = now
            return
        virtual_s, wall_s, cpu_s = (after - before for after, before in zip(now, self._since, strict=True))
        if virtual_s >= self._window_s - 1e-6:
            self.walls.append(virtual_s / wall_s)
            self.cpus.append(virtual_s / cpu_s)
            self._since = now

    def pause(self) -> None:
        """Nothing counts until the next call of `tick`."""
        self._since = None

    def figure(self, name: str, **more: float) -> Figure:
        """The median by the wall. `per_cpu` is what a machine would come to that does nothing else."""
        spread = {
            "min": round(min(self.walls), 2),
            "max": round(max(self.walls), 2),
            "per_cpu": round(percentile(self.cpus, 0.5), 2),
        }
        return Figure(name, round(percentile(self.walls, 0.5), 2), "ratio", len(self.walls), spread | more)


def measure_ten(say: Say) -> Figure:
    """Ten whole daemons, the model on three of them, two sessions under way, and the observer."""
    watch, rates = Stopwatch(TEN_S), list[float]()
    for seed in range(RUNS):
        outcome = _checked(run_script(_ten(seed), on_progress=partial(_tick_while_busy, watch)))
        rates += [(len(at_s) - 1) / (at_s[-1] - at_s[0]) for at_s in _tokens(outcome)]
        say(
            f"10 daemons: {watch.walls[-1]:.1f} virtual s per s, {rates[-2]:.1f} and {rates[-1]:.1f} tokens/s"
        )
    return watch.figure("virtual_per_wall_10", tokens_per_s=round(min(rates), 1))


def _ten(seed: int) -> Script:
    tokens = int(TEN_S * TOKENS_PER_S * 1.2)  # more than come, so that both go on to the end
    requests = tuple(Request(BEGIN_S, entry, "hello there", tokens) for entry in ENTRIES)
    nodes = tuple(NodeSpec(f"n{number}", layer_ms=LAYER_MS) for number in range(10))
    duration_s = BEGIN_S + TEN_S + 1.0
    return Script("ten", seed, duration_s, nodes, layers=LAYERS, requests=requests, offer_on=HOLDERS)


def _tick_while_busy(watch: Stopwatch, progress: Progress) -> None:
    if progress.sessions == len(ENTRIES):
        watch.tick(progress.at_s)
    else:
        watch.pause()


def _tokens(outcome: Outcome) -> list[tuple[float, ...]]:
    """Raises `LocalFault` if a session did not go on to the end."""
    for request in outcome.requests:
        if request.status != "unfinished":
            raise LocalFault(f"a session of the benchmark {request.status}: {request.detail}")
    return [request.token_at_s for request in outcome.requests]


def measure_many(say: Say) -> Figure:
    """200 whole daemons that gossip and watch each other; one start, three windows."""
    watch, began_s = Stopwatch(MANY_S), time.perf_counter()
    up_s: list[float] = []

    def tick(progress: Progress) -> None:
        if not up_s:
            up_s.append(time.perf_counter() - began_s)
            say(f"200 daemons are up after {up_s[0]:.0f} s")
        watch.tick(progress.at_s)

    nodes = tuple(NodeSpec(f"n{number}") for number in range(200))
    duration_s = RUNS * MANY_S + 1.0
    _checked(run_script(Script("many", 1, duration_s, nodes, offer_on=HOLDERS), on_progress=tick))
    return watch.figure("virtual_per_wall_200", start_wall_s=round(up_s[0], 1))


def measure_world(say: Say) -> Figure:
    """1,000 nodes of pure machines, three windows."""
    watch = Stopwatch(WORLD_S)

    def tick(world: World) -> bool:
        if world.now_s >= BEGINS_S:  # before, they come to know each other
            watch.tick(world.now_s)
        return True

    nodes = tuple(NodeSpec(f"n{number}") for number in range(1000))
    _checked(run_world(Script("world", 1, RUNS * WORLD_S + 1.0, nodes, level="world"), on_look=tick))
    say(f"1,000 nodes: {watch.walls[-1]:.2f} virtual s per s")
    return watch.figure("virtual_per_wall_1000")


def _checked(outcome: Outcome) -> Outcome:
    """Raises `LocalFault` if it has found anything: a mesh that does not work is no measure."""
    if outcome.violations:
        first = outcome.violations[0]
        raise LocalFault(f"{outcome.scenario} found {first.invariant} at {first.at_s:g} s: {first.detail}")
    return outcome
