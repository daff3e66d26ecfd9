"""The table of planted bugs: how many the harness finds, by which invariant, and after how many seeds.

    python -m tests.mutants [--seeds 500] [--jobs 2] [NAME ...]

A finding counts only if the very same seed is good without the bug. Lines as they come on stderr, the table and one JSON
object with the figure on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.mutants.catalogue import MUTANTS
from tests.mutants.planting import ROOT, Mutant

SCENARIO = "swarm"
BATCH = 25  # seeds per process
HUNG_S = 1200.0  # wall time that a batch may take


@dataclass(frozen=True, slots=True)
class Finding:
    """`seed` None: not found."""

    mutant: Mutant
    seed: int | None
    by: str


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="planted bugs; all if none is named")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    unknown = [name for name in wanted.names if name not in MUTANTS]
    if unknown:
        parser.error(f"no planted bug is called {unknown[0]!r}: {', '.join(MUTANTS)}")
    mutants = [MUTANTS[name] for name in wanted.names] or list(MUTANTS.values())
    with ThreadPoolExecutor(wanted.jobs) as pool:
        findings = list(pool.map(lambda mutant: _hunted(mutant, wanted.seeds), mutants))
    _show(findings, wanted.seeds)
    return 0 if all(finding.seed is not None for finding in findings) else 1


def _hunted(mutant: Mutant, seeds: int) -> Finding:
    for first in range(1, seeds + 1, BATCH):
        found = _run(first, min(first + BATCH - 1, seeds), mutant)
        while found is not None:
            seed = int(str(found["seed"]))
            if _run(seed, seed, None) is None:
                finding = Finding(mutant, seed, str(found["by"]))
                print(f"{mutant.name}: seed {seed}, {finding.by}", file=sys.stderr, flush=True)
                return finding
            found = _run(seed + 1, first + BATCH - 1, mutant)
    print(f"{mutant.name}: not found in {seeds} seeds", file=sys.stderr, flush=True)
    return Finding(mutant, None, "")


def _run(first: int, last: int, mutant: Mutant | None) -> Mapping[str, object] | None:
    """The first bad seed of these. A run that hangs or dies for good counts as found: nobody could overlook it."""
    if first > last:
        return None
    environment = dict(os.environ)
    if mutant is not None:
        environment |= {"PYTHONPATH": str(ROOT / "tests/mutants/site"), "WEFT_MUTANT": mutant.name}
    command = [sys.executable, "-m", "tests.mutants.hunt", SCENARIO, str(first), str(last)]
    try:
        ended = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HUNG_S
        )
    except subprocess.TimeoutExpired:
        return {"seed": first, "by": "the run hangs"}
    if ended.returncode != 0:
        return {"seed": first, "by": f"the run ends: {ended.stderr.strip().splitlines()[-1][:80]}"}
    found: Mapping[str, object] | None = json.loads(ended.stdout)
    return found


def _show(findings: list[Finding], seeds: int) -> None:
    width = max(len(finding.mutant.name) for finding in findings)
    for finding in findings:
        seed = f"seed {finding.seed}" if finding.seed is not None else "not found"
        print(f"{finding.mutant.name:<{width}}  {seed:<10}  {finding.by:<24}  {finding.mutant.breaks}")
    found = [finding.seed for finding in findings if finding.seed is not None]
    print(
        json.dumps(
            {
                "figure": "mutants_found_share",
                "value": round(len(found) / len(findings), 4),
                "planted": len(findings),
                "found": len(found),
                "seeds_max": seeds,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
