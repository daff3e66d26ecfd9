"""One run over its virtual time: tokens per second of all its clients, with the faults and failovers marked."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from simulations.report.plot import (
    HEIGHT,
    TOP,
    Band,
    Dot,
    Line,
    Plot,
    Rule,
    Scale,
    Table,
    across,
    nice_step,
    nice_top,
    polyline,
    rows_apart,
    ticks,
    upwards,
)
from simulations.running.outcome import Mark, Outcome

WIDTH: Final = 1060
POINTS: Final = 300
NUMBER_PX: Final = 22
"""What the number of a fault takes up."""
MARK_PX: Final = 3


def tokens_plot(outcome: Outcome) -> Plot | None:
    """None if the run gave no token."""
    times_s = [at_s for request in outcome.requests for at_s in request.token_at_s]
    if not times_s:
        return None
    until_s = max(outcome.virtual_s, *times_s)
    per_s, bin_s = _rates(times_s, until_s)
    x = across(0, until_s, WIDTH)
    y = upwards(0, nice_top(max(per_s)))
    marks = sorted(outcome.marks, key=lambda mark: (mark.at_s, mark.until_s, mark.label))
    return Plot(
        name="tokens",
        title=f"Tokens per second, seed {outcome.seed}",
        says=f"{len(times_s)} tokens in {outcome.virtual_s:.0f} virtual seconds, at most {max(per_s):.1f} per second; "
        f"{len(marks)} faults are marked.",
        width=WIDTH,
        x_label="virtual time (s)",
        y_label="tokens/s" if bin_s == 1 else f"tokens/s (means over {bin_s:g} s)",
        x_ticks=ticks(x),
        y_ticks=ticks(y),
        lines=(Line(_steps(x, y, per_s, bin_s), "first"),),
        rules=_violations(outcome, x),
        bands=_bands(x, marks),
        dots=_failovers(outcome, x),
        table=_table(marks),
        is_open=True,  # without it the numbers say nothing
    )


def _rates(times_s: list[float], until_s: float) -> tuple[list[float], float]:
    bin_s = max(nice_step(until_s, POINTS), 1.0)
    counted = Counter(math.floor(at_s / bin_s) for at_s in times_s)
    return [counted[index] / bin_s for index in range(math.floor(until_s / bin_s) + 1)], bin_s


def _steps(x: Scale, y: Scale, per_s: list[float], bin_s: float) -> str:
    points = []
    for index, rate in enumerate(per_s):
        points += [(x.px(index * bin_s), y.px(rate)), (x.px(min((index + 1) * bin_s, x.high)), y.px(rate))]
    return polyline(points)


def _bands(x: Scale, marks: list[Mark]) -> tuple[Band, ...]:
    """What happens at once is as wide as can be seen; what outlasts the run ends with it."""
    starts = [x.px(min(mark.at_s, x.high)) for mark in marks]
    ends = [x.px(min(mark.until_s, x.high)) for mark in marks]
    rows = rows_apart(starts, NUMBER_PX)
    return tuple(
        Band(start, round(max(end - start, MARK_PX), 1), number, row, _tip(number, mark))
        for number, (mark, start, end, row) in enumerate(zip(marks, starts, ends, rows, strict=True), 1)
    )


def _violations(outcome: Outcome, x: Scale) -> tuple[Rule, ...]:
    """What did not hold at one time is named once."""
    told: dict[float, dict[str, None]] = {}
    for violation in outcome.violations:
        told.setdefault(x.px(min(violation.at_s, x.high)), {})[violation.invariant] = None
    return tuple(Rule(px, ", ".join(names), "bad") for px, names in sorted(told.items()))


def _failovers(outcome: Outcome, x: Scale) -> tuple[Dot, ...]:
    return tuple(
        Dot(
            x.px(failover.at_s),
            TOP + (HEIGHT - 2 * TOP) / 2,
            "failover",
            f"failover at {failover.at_s:.2f} s: {failover.lost} to {failover.to}, paused for {failover.pause_s:.2f} s",
        )
        for request in outcome.requests
        for failover in request.failovers
    )


def _tip(number: int, mark: Mark) -> str:
    return f"{number}: {mark.label}, {mark.at_s:.2f} s to {mark.until_s:.2f} s"


def _table(marks: list[Mark]) -> Table:
    rows = tuple(
        (str(number), f"{mark.at_s:.2f}", f"{mark.until_s:.2f}", mark.label)
        for number, mark in enumerate(marks, 1)
    )
    return Table("Faults", ("number", "from (s)", "until (s)", "fault"), rows)
