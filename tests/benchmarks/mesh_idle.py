"""What it costs to be a member while nothing happens: CPU of the nodes of an idle mesh, less that of nodes that only listen.

Both kinds run at the same time and are read at the same moments. What is counted is user and system time of the process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.mesh_processes import Process, ProcessMesh

NODES: Final = 12
SETTLE_S: Final = 20.0  # for dials, and for what the nodes still have to tell each other
WINDOW_S: Final = 40.0
WINDOWS: Final = 3

Say = Callable[[str], None]


def measure_idle(say: Say) -> Figure:
    """`gossip_core_share_12`: of one core, the mean over the nodes, in the median window."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessMesh(NODES, Path(folder) / "on") as on,
        ProcessMesh(NODES, Path(folder) / "off", is_member=False) as off,
    ):
        say(f"{NODES} processes know each other, and {NODES} know nobody")
        time.sleep(SETTLE_S)
        windows = [_window(on, off, say) for _ in range(WINDOWS)]
    means = [sum(shares) / NODES for shares in windows]
    worst = max(sum(window[node] for window in windows) / WINDOWS for node in range(NODES))
    spread = {
        "min": round(min(means), 5),
        "max": round(max(means), 5),
        "worst_node": round(worst, 5),
        "window_s": WINDOW_S,
    }
    return Figure("gossip_core_share_12", round(percentile(means, 0.5), 5), "cores", WINDOWS, spread)


def _window(on: ProcessMesh, off: ProcessMesh, say: Say) -> list[float]:
    """Share of a core of every node that is on, above the mean of those that are off."""
    shares = _shares([*on.nodes, *off.nodes])
    idle = sum(shares[NODES:]) / NODES
    told = ", ".join(f"{share:.4f}" for share in shares[:NODES])
    say(f"cores of members: {told}; of the others in the mean {idle:.5f}")
    return [share - idle for share in shares[:NODES]]


def _shares(nodes: list[Process]) -> list[float]:
    before = [(node.cpu_s(), time.monotonic()) for node in nodes]
    time.sleep(WINDOW_S)
    after = [(node.cpu_s(), time.monotonic()) for node in nodes]
    return [
        (cpu_s - cpu_before_s) / (at_s - before_s)
        for (cpu_before_s, before_s), (cpu_s, at_s) in zip(before, after, strict=True)
    ]
