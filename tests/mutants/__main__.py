"""The table of planted bugs: how many the harness finds, by which invariant, and after how many seeds.

    python -m tests.mutants [--seeds 500] [--jobs 2] [NAME ...]
    python -m tests.mutants --survival NAME ...     which tests outside tests/simulations notice them, if any does

A finding counts only if the very same seed is good without the bug. All bugs are hunted for a few seeds each, then those that
are left for more. Lines as they come on stderr, the table and one JSON object with the figure on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.mutants.catalogue import MUTANTS
from tests.mutants.planting import Mutant
from tests.mutants.running import Finding, Hunt, killer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="planted bugs; all if none is named")
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--survival", action="store_true", help="run the other tests instead: minutes for each"
    )
    wanted = parser.parse_args()
    unknown = [name for name in wanted.names if name not in MUTANTS]
    if unknown:
        parser.error(f"no planted bug is called {unknown[0]!r}: {', '.join(MUTANTS)}")
    mutants = [MUTANTS[name] for name in wanted.names] or list(MUTANTS.values())
    if wanted.survival:
        return _tell_survival(mutants)
    with ThreadPoolExecutor(wanted.jobs) as pool:
        findings = Hunt(pool, wanted.seeds).run(mutants)
    _show(findings, wanted.seeds)
    return 0 if all(finding.seed is not None for finding in findings) else 1


def _tell_survival(mutants: list[Mutant]) -> int:
    """One after the other, since the tests with real processes want the machine for themselves."""
    is_as_said = True
    for mutant in mutants:
        noticed = killer(mutant)
        is_as_said &= (noticed is None) is mutant.survives
        print(f"{mutant.name}: {'survives' if noticed is None else f'is noticed by {noticed}'}", flush=True)
    return 0 if is_as_said else 1


def _show(findings: list[Finding], seeds: int) -> None:
    width = max(len(finding.mutant.name) for finding in findings)
    for finding in findings:
        seed = f"seed {finding.seed}" if finding.seed is not None else "not found"
        survives = "survives" if finding.mutant.survives else ""
        print(
            f"{finding.mutant.name:<{width}}  {survives:<8}  {seed:<9}  {finding.by:<24}  {finding.mutant.breaks}"
        )
    found = [finding.seed for finding in findings if finding.seed is not None]
    print(
        json.dumps(
            {
                "figure": "mutants_found_share",
                "value": round(len(found) / len(findings), 4),
                "planted": len(findings),
                "surviving": sum(finding.mutant.survives for finding in findings),
                "found": len(found),
                "seeds_max": seeds,
            }
        )
    )


if __name__ == "__main__":
    sys.exit(main())
