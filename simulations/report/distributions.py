"""How long things took: a histogram, and beside it the share that took no longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from simulations.report.plot import (
    Bar,
    Line,
    Plot,
    Rule,
    Scale,
    Table,
    across,
    nice_step,
    nice_top,
    polyline,
    ticks,
    upwards,
)
from simulations.running.statistics import percentile

WIDTH: Final = 520
BINS: Final = 30
SHARES: Final = (0.5, 0.9, 0.99, 1.0)


def histogram(name: str, title: str, noun: str, values_s: Sequence[float]) -> Plot:
    """`noun`: what is counted, in the plural. There must be values."""
    width_s, counts = _counted(values_s)
    x, y = across(0, width_s * len(counts), WIDTH), upwards(0, nice_top(max(counts)))
    bars = tuple(
        _bar(x, y, index * width_s, (index + 1) * width_s, count)
        for index, count in enumerate(counts)
        if count
    )
    median_s, longest_s = percentile(values_s, 0.5), max(values_s)
    return Plot(
        name=f"{name}-histogram",
        title=f"{title}: histogram",
        says=f"{len(values_s)} {noun}; half of them took at most {median_s:.2f} s, the longest {longest_s:.2f} s.",
        width=WIDTH,
        x_label="seconds",
        y_label=noun,
        x_ticks=ticks(x),
        y_ticks=ticks(y, whole=True),
        bars=bars,
        table=Table(
            f"{title}, counted",
            ("from (s)", "below (s)", noun),
            tuple(
                (_seconds(i * width_s), _seconds((i + 1) * width_s), str(n))
                for i, n in enumerate(counts)
                if n
            ),
        ),
    )


def cumulative(name: str, title: str, series: Sequence[tuple[str, Sequence[float]]]) -> Plot:
    """One curve for each named series; the first has the percentiles marked. Every series must have values."""
    longest_s = max(max(values_s) for _, values_s in series)
    x, y = across(0, nice_top(longest_s), WIDTH), upwards(0, 100)
    kinds = ("first", "second")
    first_name, first_s = series[0]
    median_s, high_s = percentile(first_s, 0.5), percentile(first_s, 0.99)
    rows = tuple(
        (f"{share:.0%}", *(_seconds(percentile(values_s, share)) for _, values_s in series))
        for share in SHARES
    )
    return Plot(
        name=f"{name}-cdf",
        title=f"{title}: share that took no longer",
        says=f"{first_name}: 50 % within {median_s:.2f} s, 99 % within {high_s:.2f} s, all within {max(first_s):.2f} s.",
        width=WIDTH,
        x_label="seconds",
        y_label="share",
        x_ticks=ticks(x),
        y_ticks=ticks(y, " %"),
        lines=tuple(
            Line(_steps(x, y, values_s), kind, series_name if len(series) > 1 else "")
            for kind, (series_name, values_s) in zip(kinds, series, strict=False)
        ),
        rules=_rules(x, (("p50", median_s), ("p99", high_s))),
        table=Table(f"{title}, percentiles", ("share", *(f"{name} (s)" for name, _ in series)), rows),
    )


def _counted(values_s: Sequence[float]) -> tuple[float, list[int]]:
    """The width of the bins, and how many values each has; the last one has the longest in it."""
    longest_s = max(*values_s, 0.01)
    width_s = nice_step(longest_s, max(min(BINS, math.isqrt(len(values_s)) * 2), 5))
    counts = [0] * (math.floor(longest_s / width_s) + 1)
    for value_s in values_s:
        counts[min(math.floor(max(value_s, 0.0) / width_s), len(counts) - 1)] += 1
    return width_s, counts


def _bar(x: Scale, y: Scale, from_s: float, to_s: float, count: int) -> Bar:
    left, right, top, bottom = x.px(from_s), x.px(to_s), y.px(count), y.px(0)
    tip = f"{_seconds(from_s)} s to {_seconds(to_s)} s: {count}"
    return Bar(left + 0.5, top, round(right - left - 1, 1), round(bottom - top, 1), tip)


def _steps(x: Scale, y: Scale, values_s: Sequence[float]) -> str:
    points = [(x.px(0), y.px(0))]
    ordered = sorted(values_s)
    for rank, value_s in enumerate(ordered, 1):
        points.append((x.px(value_s), points[-1][1]))
        points.append((x.px(value_s), y.px(100 * rank / len(ordered))))
    points.append((x.px(x.high), y.px(100)))
    return polyline(dict.fromkeys(points))


def _rules(x: Scale, marks: Sequence[tuple[str, float]]) -> tuple[Rule, ...]:
    """The words of marks that lie together are said once."""
    told: dict[float, list[str]] = {}
    for text, value_s in marks:
        told.setdefault(x.px(value_s), []).append(text)
    return tuple(Rule(px, ", ".join(texts)) for px, texts in told.items())


def _seconds(value_s: float) -> str:
    return f"{value_s:.2f}"
