"""A run in a few lines, for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median

from simulations.running.outcome import Outcome


def outcome_text(outcome: Outcome) -> str:
    """What it ran, how fast, and how its clients fared."""
    return "\n".join(_lines(outcome))


def _lines(outcome: Outcome) -> Iterator[str]:
    speed = f" ({outcome.virtual_s / outcome.wall_s:.0f} x real time)" if outcome.wall_s else ""
    yield (
        f"{outcome.scenario}, seed {outcome.seed}: {outcome.nodes} nodes, {outcome.virtual_s:.1f} virtual s "
        f"in {outcome.wall_s:.1f} s{speed}, {outcome.events:,} events, digest {outcome.digest}"
    )
    if outcome.interrupted:
        yield "interrupted: this is what was known by then"
    yield f"requests    {_requests(outcome)}"
    yield f"failovers   {_times([each.pause_s for one in outcome.requests for each in one.failovers], 'pause')}"
    yield f"detections  {_detections(outcome)}"
    yield f"violations  {_violations(outcome)}"


def _requests(outcome: Outcome) -> str:
    if not outcome.requests:
        return "none"
    counts = Counter(request.status for request in outcome.requests)
    return ", ".join(f"{counts[status]} {status}" for status in ("finished", "failed", "lost")) + "".join(
        f", {counts[status]} {status}" for status in ("cancelled", "unfinished") if counts[status]
    )


def _times(times_s: list[float], what: str) -> str:
    if not times_s:
        return "none"
    return f"{len(times_s)}, {what} {median(times_s):.2f} s in the median, {max(times_s):.2f} s at most"


def _detections(outcome: Outcome) -> str:
    took_s = [each.first_s - each.down_at_s for each in outcome.detections if each.down_at_s is not None]
    false = len(outcome.detections) - len(took_s)
    return _times(took_s, "after") + (f"; {false} false" if false else "")


def _violations(outcome: Outcome) -> str:
    names = Counter(violation.invariant for violation in outcome.violations)
    found = ", ".join(f"{name} x {count}" if count > 1 else name for name, count in sorted(names.items()))
    return (found or "none") + (f"; {len(outcome.missed)} expectations missed" if outcome.missed else "")
