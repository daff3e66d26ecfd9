"""One planted bug, hunted in this process: `python -m tests.mutants.hunt SCENARIO FIRST LAST` with the bug in the environment.

Prints a line of JSON: the first seed whose run breaks an invariant or an expectation, and which; `null` if none does.
"""

from __future__ import annotations

import json
import sys

import structlog

from simulations.running.outcome import Outcome
from simulations.running.run import run_script
from simulations.scenarios.drawing import draw
from simulations.scenarios.scenario import load


def first_finding(scenario: str, first: int, last: int) -> dict[str, object] | None:
    """Of the seeds from `first` to `last`, both included."""
    loaded = load(scenario)
    for seed in range(first, last + 1):
        outcome = run_script(draw(loaded, seed))
        if not outcome.is_good:
            by, detail = _by(outcome)
            return {"seed": seed, "by": by, "detail": detail, "at_s": round(outcome.virtual_s, 1)}
    return None


def _by(outcome: Outcome) -> tuple[str, str]:
    broken = dict.fromkeys(violation.invariant for violation in outcome.violations)
    if not broken:
        return outcome.missed[0], ""
    first = outcome.violations[0]
    return ", ".join(broken), f"{first.sentence} {first.detail.splitlines()[0] if first.detail else ''}"[:200]


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(json.dumps(first_finding(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
