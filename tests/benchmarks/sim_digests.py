"""Whether the same seed gives the same run: twice in one process, and in processes in which strings hash otherwise.

    python -m tests.benchmarks.sim_digests FIRST LAST

prints [seed, digest] lines, two for every seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from msgspec.structs import replace

from protocols.errors import LocalFault
from simulations.running.run import run_script
from simulations.scenarios.drawing import draw
from simulations.scenarios.scenario import load
from tests.benchmarks.figures import Figure

SCENARIO: Final = "swarm"
SEEDS: Final = 100
RUNS: Final = 2
HASH_SEEDS: Final = ("0", "1", "2")
VIRTUAL_S: Final = 20.0  # the beginning of what the scenario gives
BATCH: Final = 10  # seeds per process

Say = Callable[[str], None]
Digests = Mapping[int, list[str]]


def measure(say: Say, jobs: int, seeds: int = SEEDS) -> Figure:
    """`determinism_equal_share`: of the seeds, those of which every run was the same. Raises `LocalFault`."""
    batches = [
        (first, min(first + BATCH, seeds) - 1, hash_seed)
        for first in range(0, seeds, BATCH)
        for hash_seed in HASH_SEEDS
    ]
    seen: dict[int, list[str]] = {seed: [] for seed in range(seeds)}
    with ThreadPoolExecutor(jobs) as pool:
        for done, found in enumerate(pool.map(lambda batch: _digests(*batch), batches), 1):
            for seed, digest in found:
                seen[seed].append(digest)
            say(f"determinism: {done} of {len(batches)} batches")
    for seed, digests in seen.items():
        if not is_equal(digests):
            say(f"seed {seed} differs: weft sim check-determinism {seed}")
    share = sum(map(is_equal, seen.values())) / seeds
    return Figure("determinism_equal_share", share, "share", seeds * RUNS * len(HASH_SEEDS))


def is_equal(digests: list[str]) -> bool:
    """Every run has its digest, and they are one."""
    return len(digests) == RUNS * len(HASH_SEEDS) and len({*digests}) == 1


def _digests(first: int, last: int, hash_seed: str) -> list[tuple[int, str]]:
    command = [sys.executable, "-m", "tests.benchmarks.sim_digests", str(first), str(last)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise LocalFault(f"seeds {first} to {last} did not run to their end with PYTHONHASHSEED={hash_seed}")
    return [(seed, digest) for seed, digest in map(json.loads, ended.stdout.splitlines())]


def tell(seeds: Iterable[int]) -> None:
    """Of everything that crossed a wire and of what was found."""
    scenario = load(SCENARIO)
    for seed in seeds:
        for _ in range(RUNS):
            script = replace(draw(scenario, seed), duration_s=VIRTUAL_S)
            outcome = run_script(script, stop_at_first=False)
            found = [violation.invariant for violation in outcome.violations]
            print(json.dumps([seed, " ".join((outcome.digest, str(outcome.events), *found))]), flush=True)


if __name__ == "__main__":
    tell(range(int(sys.argv[1]), int(sys.argv[2]) + 1))
