"""What ten simulated daemons come to hold over a virtual hour, in which nothing should grow.

    python -m tests.benchmarks.sim_memory

A session of 20 tokens and a crash with a restart every five minutes; otherwise they are idle. Before, while they warm up, the
same befalls every node, three times: what one says of another is kept for hours or days, so tables of pairs have to be full first. A
process of its own measures the memory that it has in use, after each virtual minute, with garbage collected first, and prints
[minute, MB, blocks] lines. Blocks are what Python has allocated: where they stay as many, nothing is kept, and memory grows
only as the allocator's holes do.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from protocols.errors import LocalFault
from simulations.running.run import Progress, run_script
from simulations.scenarios.faults import Crash
from simulations.scenarios.script import NodeSpec, Request, Script
from tests.benchmarks.figures import Figure

NODES: Final = 10
WARM_UP_MIN: Final = 60
WARM_UP_ROUNDS: Final = 3  # by then the allocator has the holes that restarts need
MEASURED_MIN: Final = 60
EVERY_MIN: Final = 5
TOKENS: Final = 20

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`memory_slope_mb_per_hour`, by least squares over the hour after the warm-up. Raises `LocalFault`."""
    began_s, samples = time.monotonic(), list[tuple[int, float, int]]()
    command = [sys.executable, "-m", "tests.benchmarks.sim_memory"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as simulating:
        assert simulating.stdout is not None
        for line in simulating.stdout:
            minute, used_mb, blocks = json.loads(line)
            samples.append((minute, used_mb, blocks))
            if minute % 10 == 0:
                say(f"{minute} of {WARM_UP_MIN + MEASURED_MIN} virtual minutes: {used_mb:.2f} MB")
    if simulating.returncode:
        raise LocalFault("the simulated hour did not end well")
    measured = [sample for sample in samples if sample[0] >= WARM_UP_MIN]
    slope_mb = 60 * slope([(minute, used_mb) for minute, used_mb, _ in measured])
    blocks_slope = 60 * slope([(minute, blocks) for minute, _, blocks in measured])
    spread = {
        "blocks_per_hour": round(blocks_slope),
        "blocks": measured[-1][2],
        "from_mb": round(measured[0][1], 2),
        "to_mb": round(measured[-1][1], 2),
        "wall_s": round(time.monotonic() - began_s, 1),
    }
    yield Figure("memory_slope_mb_per_hour", round(slope_mb, 3), "MB/h", len(measured), spread)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits best, by least squares. Needs two points apart."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def script(minutes: int) -> Script:
    nodes = tuple(NodeSpec(f"n{number}") for number in range(NODES))
    turns = WARM_UP_ROUNDS * NODES
    warm_s = [60.0 * WARM_UP_MIN * (turn + 0.5) / (turns + 1) for turn in range(turns)]
    times_s = [*warm_s, *(60.0 * minute for minute in range(WARM_UP_MIN, minutes, EVERY_MIN))]
    requests = tuple(
        Request(at_s + 30.0, f"n{turn % NODES}", "hello there", TOKENS, 1.0, turn)
        for turn, at_s in enumerate(times_s)
    )
    faults = tuple(
        Crash(at_s, node=f"n{3 * turn % NODES}", restart_s=5.0) for turn, at_s in enumerate(times_s)
    )
    return Script("memory", 1, 60.0 * minutes, nodes, requests=requests, faults=faults)


def main() -> int:
    minutes = WARM_UP_MIN + MEASURED_MIN
    told = 0

    def tell(progress: Progress) -> None:
        nonlocal told
        minute = int(60.0 * minutes - (progress.until_s - progress.at_s)) // 60
        if minute > told:
            told = minute
            gc.collect()
            print(json.dumps([minute, used_mb(), sys.getallocatedblocks()]), flush=True)

    outcome = run_script(script(minutes), on_progress=tell)
    for violation in outcome.violations:
        print(f"{violation.invariant} at {violation.at_s:g} s: {violation.detail}", file=sys.stderr)
    return bool(outcome.violations)


def used_mb() -> float:
    """Of this process, resident; in MB of a million bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("this kernel does not say how much memory a process has in use")


if __name__ == "__main__":
    sys.exit(main())
