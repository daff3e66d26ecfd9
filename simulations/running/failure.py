"""How a failed run reads: what did not hold, when, what the nodes did before, and the command that shows it again."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from simulations.running.expectations import name_of
from simulations.running.outcome import Outcome, Violation

PACKAGES: Final = ("protocols", "mesh", "inference", "evolution", "node", "simulations")
TAIL_EVENTS: Final = 30
"""How many of the last events of the nodes involved are shown."""
SHOWN_OF_EACH: Final = 3
"""Violations of one invariant; what follows is mostly the same again."""


def failure_text(outcome: Outcome, command: str) -> str:
    """Some lines about a run that was not good. `command` is what runs it again: see `run_command`."""
    lines = list(_violations(outcome.violations))
    lines += [f"missed {miss}" for miss in outcome.missed]
    lines += _tail(outcome)
    lines.append(
        f"scenario {outcome.scenario}, seed {outcome.seed}, {outcome.nodes} nodes, "
        f"virtual time {outcome.virtual_s:.3f} s, digest {outcome.digest}, sources {package_digest()}"
    )
    lines.append(f"again:   {command}")
    lines.append(f"smaller: {command.replace('weft sim run', 'weft sim shrink', 1)}")
    return "\n".join(lines)


def run_command(
    scenario: str, seed: int | None = None, nodes: int | None = None, minutes: float | None = None
) -> str:
    """The one command that runs a drawn script again; `scenario` is a name or the path of a file. A script needs no seed."""
    words = ["weft", "sim", "run", scenario]
    if seed is not None:
        words += ["--seed", str(seed)]
    if nodes is not None:
        words += ["--nodes", str(nodes)]
    if minutes is not None:
        words += ["--minutes", f"{minutes:.12g}"]
    return shlex.join(words)


def failures(outcome: Outcome) -> tuple[str, ...]:
    """The names of what did not hold: invariants, then expectations. Two runs that share one fail alike."""
    return (*(violation.invariant for violation in outcome.violations), *map(name_of, outcome.missed))


@cache
def package_digest() -> str:
    """Of the sources of all packages, so that a failure says what it was a failure of, with or without version control."""
    root = Path(__file__).resolve().parents[2]
    found = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            found.update(f"{path.relative_to(root).as_posix()}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]


def _violations(violations: tuple[Violation, ...]) -> Iterator[str]:
    """The first of each invariant, in the order in which they came."""
    of_each: dict[str, list[Violation]] = {}
    for violation in violations:
        of_each.setdefault(violation.invariant, []).append(violation)
    for invariant, found in of_each.items():
        for violation in found[:SHOWN_OF_EACH]:
            yield from _violated(violation)
        if len(found) > SHOWN_OF_EACH:
            yield f"and {len(found) - SHOWN_OF_EACH} more of {invariant}"


def _violated(violation: Violation) -> Iterator[str]:
    where = f" on {', '.join(violation.nodes)}" if violation.nodes else ""
    yield f"violated {violation.invariant} at {violation.at_s:.3f} s{where}"
    yield f"  {violation.sentence}"
    yield from (f"  {line}" for line in violation.detail.splitlines())


def _tail(outcome: Outcome) -> Iterator[str]:
    if outcome.tail:
        yield "last events of these nodes:"
        yield from outcome.tail
