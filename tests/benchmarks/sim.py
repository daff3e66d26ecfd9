"""The simulation harness: every figure of `make bench NAME=sim`, in parts that can be measured one by one (`NAME=sim:speed`).

A part that can't be measured says why and does not keep the others from it. On two quiet cores `speed` takes about six minutes,
`determinism` ten, `violations` two, `memory` three, and `mutants` the longest by far: every planted bug is hunted until found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from protocols.errors import LocalFault
from simulations.running.campaign import Campaign
from simulations.running.carrying_out import carry_out
from simulations.running.engines import LocalEngine
from tests.benchmarks import sim_digests, sim_memory, sim_speed
from tests.benchmarks.figures import Figure
from tests.benchmarks.parts import Part, run_parts

Say = Callable[[str], None]

CI_WALL_S: Final = 120.0  # the bar of the whole set, on two cores
JOBS: Final = len(os.sched_getaffinity(0))


def measure(say: Say) -> Iterator[Figure]:
    """All parts. Raises `PartsFailed` after the last of them if one failed."""
    yield from run_parts("sim", PARTS, say)


def _determinism(say: Say) -> Iterator[Figure]:
    yield sim_digests.measure(say, JOBS)


def _mutants(say: Say) -> Iterator[Figure]:
    """`mutants_found_share`, as `python -m tests.mutants` has it. Raises `LocalFault` if it ends without."""
    command = [sys.executable, "-m", "tests.mutants", "--jobs", str(JOBS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hunting:
        assert hunting.stdout is not None
        lines = [line.rstrip() for line in hunting.stdout]
    if not lines or not lines[-1].startswith("{"):
        raise LocalFault(f"the hunt for planted bugs ended with {hunting.returncode} and without a figure")
    for line in lines[:-1]:
        say(line)
    yield figure_of_mutants(json.loads(lines[-1]))


def figure_of_mutants(told: dict[str, Any]) -> Figure:
    """`runs` are the planted bugs."""
    spread = {"found": told["found"], "seeds_max": told["seeds_max"]}
    return Figure("mutants_found_share", told["value"], "share", told["planted"], spread)


def _violations(say: Say) -> Iterator[Figure]:
    """Of the CI set: `wall_s` has a bar of its own. What was found is told with the command that shows it again."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as folder:
        told = Campaign("ci", lambda: LocalEngine(JOBS, carry_out), lambda: False, say, Path(folder)).run()
    for part in told.parts:
        for found in part.found:
            say(f"{found.rule} {found.times} times: {found.detail}; {found.command}")
    spread = {
        "wall_s": told.wall_s,
        "wall_s_bar": CI_WALL_S,
        "virtual_s": sum(part.virtual_s for part in told.parts),
    }
    yield Figure("violations", told.violations, "violations", sum(part.runs for part in told.parts), spread)


PARTS: Final[dict[str, Part]] = {
    "speed": sim_speed.measure,
    "determinism": _determinism,
    "mutants": _mutants,
    "violations": _violations,
    "memory": sim_memory.measure,
}
