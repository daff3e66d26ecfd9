"""Runs seeds, and the other tests, with a bug planted: each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Final

from tests.mutants.planting import ROOT, Mutant

SCENARIO: Final = "swarm"
ROUNDS: Final = (2, 4, 10, 25)  # seeds for each bug in each round; the last goes on
HUNG_S: Final = 1200.0  # wall time that the seeds of a round may take
SITE: Final = str(ROOT / "tests/mutants/site")


@dataclass(frozen=True, slots=True)
class Finding:
    """`seed` None: not found."""

    mutant: Mutant
    seed: int | None
    by: str


class Hunt:
    """For several bugs side by side. A seed that is bad without any bug counts for none."""

    def __init__(self, pool: ThreadPoolExecutor, seeds: int) -> None:
        self._pool = pool
        self._seeds = seeds
        self._is_clean: dict[int, bool] = {}
        self._lock = Lock()

    def run(self, mutants: list[Mutant]) -> list[Finding]:
        found: dict[str, Finding] = {}
        first, rounds = 1, list(ROUNDS)
        while first <= self._seeds and len(found) < len(mutants):
            count = rounds.pop(0) if len(rounds) > 1 else rounds[0]
            last = min(first + count - 1, self._seeds)
            left = [mutant for mutant in mutants if mutant.name not in found]
            for finding in self._pool.map(self._hunted, left, [first] * len(left), [last] * len(left)):
                if finding is not None:
                    found[finding.mutant.name] = finding
            first = last + 1
        return [found.get(mutant.name, Finding(mutant, None, "")) for mutant in mutants]

    def _hunted(self, mutant: Mutant, first: int, last: int) -> Finding | None:
        while first <= last and (told := _first_bad(first, last, mutant)) is not None:
            seed = int(str(told["seed"]))
            if self._is_good_without(seed):
                print(
                    f"{mutant.name}: seed {seed}, {told['by']}: {told['detail']}", file=sys.stderr, flush=True
                )
                return Finding(mutant, seed, str(told["by"]))
            first = seed + 1
        print(f"{mutant.name}: not found up to seed {last}", file=sys.stderr, flush=True)
        return None

    def _is_good_without(self, seed: int) -> bool:
        with self._lock:
            if seed not in self._is_clean:
                told = _first_bad(seed, seed, None)
                self._is_clean[seed] = told is None
                if told is not None:
                    what = f"{told['by']}: {told['detail']}"
                    print(f"seed {seed} is bad without any bug, {what}", file=sys.stderr, flush=True)
            return self._is_clean[seed]


def _first_bad(first: int, last: int, mutant: Mutant | None) -> Mapping[str, object] | None:
    """Of these seeds. A run that hangs or dies for good counts as found: nobody could overlook it."""
    command = [sys.executable, "-m", "tests.mutants.hunt", SCENARIO, str(first), str(last)]
    try:
        ended = subprocess.run(
            command, env=_environment(mutant), cwd=ROOT, capture_output=True, text=True, timeout=HUNG_S
        )
    except subprocess.TimeoutExpired:
        return {"seed": first, "by": "the run hangs", "detail": ""}
    if ended.returncode != 0:
        return {"seed": first, "by": "the run ends", "detail": ended.stderr.strip().splitlines()[-1][:80]}
    found: Mapping[str, object] | None = json.loads(ended.stdout)
    return found


def killer(mutant: Mutant) -> str | None:
    """The first test outside tests/simulations that notices the bug, those beside its file first; None if none does."""
    beside = "/".join(("tests", *mutant.path.split("/")[:-1]))
    others = ("tests", "--ignore=tests/simulations", "--ignore=tests/mutants", f"--ignore={beside}")
    for tests in ((beside,), others):
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *tests],
            env=_environment(mutant), cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        if ended.returncode != 0:
            lines = ended.stdout.splitlines() or ["nothing"]
            return next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1])
    return None


def _environment(mutant: Mutant | None) -> dict[str, str]:
    planted = {"PYTHONPATH": SITE, "WEFT_MUTANT": mutant.name} if mutant is not None else {}
    return dict(os.environ) | planted
