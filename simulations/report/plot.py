"""Plots as plain shapes in pixels, which the page's template draws. Pure geometry: no text is put together into markup here.

(0,0) ┌──────────────────────────┐
      │ TOP                      │
      │LEFT ┌───────────┐ RIGHT  │
      │     │ the data  │        │
      │     └───────────┘        │
      │ BOTTOM: ticks, label     │
      └──────────────────────────┘ (width, HEIGHT)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HEIGHT: Final = 260
LEFT: Final = 58
RIGHT: Final = 20
TOP: Final = 24
BOTTOM: Final = 50
TICKS: Final = 6
TICK_PX: Final = 80
"""What the words of a tick take up, with some air."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels along one direction."""

    low: float
    high: float
    from_px: float
    to_px: float

    def px(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.from_px + share * (self.to_px - self.from_px), 1)


@dataclass(frozen=True, slots=True)
class Tick:
    px: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    tip: str


@dataclass(frozen=True, slots=True)
class Line:
    """`points` as SVG's polyline takes them; `kind` is a CSS class: first, second."""

    points: str
    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    kind: str
    tip: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A vertical line with a word at its top; `kind` is a CSS class."""

    x: float
    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time; `number` leads to the table, `row` keeps numbers that are near each other apart."""

    x: float
    width: float
    number: int
    row: int
    tip: str


@dataclass(frozen=True, slots=True)
class Table:
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """`says` is what a picture shows, in words, for who can't see it."""

    name: str
    title: str
    says: str
    width: int
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    table: Table
    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    rules: tuple[Rule, ...] = ()
    bands: tuple[Band, ...] = ()
    is_open: bool = False  # whether the table is shown at once
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def across(low: float, high: float, width: int) -> Scale:
    return Scale(low, high, LEFT, width - RIGHT)


def upwards(low: float, high: float) -> Scale:
    return Scale(low, high, HEIGHT - BOTTOM, TOP)


def nice_step(span: float, pieces: int = TICKS) -> float:
    """The least of 1, 2 or 5 times a power of ten that parts `span` into at most `pieces`."""
    assert span > 0
    power = 10.0 ** math.floor(math.log10(span / pieces))
    return next(step * power for step in (1, 2, 5, 10) if span / (step * power) <= pieces + 1e-9)


def nice_top(highest: float) -> float:
    """The first tick at or above it; 1 for nothing."""
    if highest <= 0:
        return 1.0
    step = nice_step(highest)
    return math.ceil(highest / step - 1e-9) * step


def ticks(scale: Scale, unit: str = "", *, whole: bool = False) -> tuple[Tick, ...]:
    """At round values. `whole`: of things that are counted."""
    pieces = max(math.floor(abs(scale.to_px - scale.from_px) / TICK_PX), TICKS)
    step = nice_step(scale.high - scale.low, pieces)
    step = max(step, 1.0) if whole else step
    digits = max(-math.floor(math.log10(step) + 1e-9), 0)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return tuple(Tick(scale.px(n * step), f"{n * step:.{digits}f}{unit}") for n in range(first, last + 1))


def polyline(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def rows_apart(starts_px: Sequence[float], apart_px: float) -> list[int]:
    """For each, the least row in which it is `apart_px` from the one before; `starts_px` rise."""
    ends_px: list[float] = []
    rows = []
    for start_px in starts_px:
        row = next((row for row, end_px in enumerate(ends_px) if start_px >= end_px), len(ends_px))
        ends_px[row : row + 1] = [start_px + apart_px]
        rows.append(row)
    return rows
