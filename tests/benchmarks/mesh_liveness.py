"""How soon the end of a node is known: SIGKILL and SIGSTOP in a mesh of twelve processes.

Counted from just before the signal to the moment at which the last of the other eleven holds the node dead, by the monotonic
clock, which is one for the whole machine. A node that is held dead and was not touched is a false death, and told as well.
"""

from __future__ import annotations

import itertools
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

from protocols.errors import Unavailable
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.mesh_processes import ProcessMesh, others, wait_until

NODES: Final = 12
TRIALS: Final = 20
GIVE_UP_S: Final = 30.0
SETTLE_S: Final = (
    3.0  # between trials, and as much again by chance: rounds of the monitors must not be in step with them
)

Say = Callable[[str], None]


def measure(say: Say, trials: int = TRIALS, nodes: int = NODES) -> Iterator[Figure]:
    """`kill_known_s_max` and `stop_known_s_max`, the bars of which are 2 and 5."""
    random = Random(5)
    with tempfile.TemporaryDirectory() as folder, ProcessMesh(nodes, Path(folder)) as mesh:
        say(f"{nodes} processes know each other")
        for name, trial in (("kill_known_s_max", _kill), ("stop_known_s_max", _stop)):
            known_s = []
            false_before = _false_deaths(mesh)
            for number, index in zip(range(trials), itertools.cycle(range(nodes)), strict=False):
                time.sleep(SETTLE_S * (1 + random.random()))
                known_s.append(trial(mesh, index))
                say(f"{name} {number + 1}/{trials}: {known_s[-1]:.2f} s")
            spread = {
                "min": round(min(known_s), 3),
                "p50": round(percentile(known_s, 0.5), 3),
                "false_deaths": _false_deaths(mesh) - false_before - trials * (nodes - 1),
            }
            yield Figure(name, round(max(known_s), 3), "s", trials, spread)


def _kill(mesh: ProcessMesh, index: int) -> float:
    since_s = time.monotonic()
    mesh.nodes[index].kill()
    known_s = _await_known(mesh, index, since_s)
    mesh.restart(index)
    mesh.await_all_alive()
    return known_s


def _stop(mesh: ProcessMesh, index: int) -> float:
    since_s = time.monotonic()
    mesh.nodes[index].signal(signal.SIGSTOP)
    try:
        return _await_known(mesh, index, since_s)
    finally:
        mesh.nodes[index].signal(signal.SIGCONT)
        mesh.await_all_alive()


def _await_known(mesh: ProcessMesh, index: int, since_s: float) -> float:
    peer, witnesses = mesh.peers[index], others(mesh.nodes, index)

    def known_at() -> list[float]:
        return [
            min((at_s for about, state, at_s in [*node.changes] if about == peer and state == "DEAD" and at_s >= since_s), default=0.0)
            for node in witnesses
        ]  # fmt: skip

    if not wait_until(lambda: all(known_at()), GIVE_UP_S):
        raise Unavailable(f"the end of a node was not known to all within {GIVE_UP_S:g} s")
    return max(known_at()) - since_s


def _false_deaths(mesh: ProcessMesh) -> int:
    """Verdicts in all, of which each trial explains one per witness."""
    return sum(state == "DEAD" for node in mesh.nodes for _, state, _ in [*node.changes])
