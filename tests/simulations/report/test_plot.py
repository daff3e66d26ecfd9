from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report.distributions import cumulative, histogram
from simulations.report.plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    Scale,
    across,
    nice_step,
    nice_top,
    rows_apart,
    ticks,
)


@pytest.mark.parametrize(
    ("span", "pieces", "expected"), [(10, 6, 2), (6, 6, 1), (0.03, 6, 0.005), (125, 6, 50), (1e4, 5, 2000)]
)
def test_steps_are_round(span: float, pieces: int, expected: float) -> None:
    assert nice_step(span, pieces) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("highest", "expected"), [(0, 1), (5, 5), (5.1, 6), (56, 60), (0.9, 1), (1234, 1500)]
)
def test_an_axis_ends_at_a_round_value(highest: float, expected: float) -> None:
    assert nice_top(highest) == pytest.approx(expected)


def test_ticks_say_as_many_digits_as_their_step_needs() -> None:
    assert [tick.text for tick in ticks(Scale(0, 2.5, 0, 300))] == ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]
    assert [tick.text for tick in ticks(Scale(90, 100, 300, 0), " %")] == [
        f"{share} %" for share in (90, 92, 94, 96, 98, 100)
    ]
    assert [tick.text for tick in ticks(Scale(0, 1, 0, 300), whole=True)] == ["0", "1"]
    assert [tick.text for tick in ticks(Scale(6.5, 7.5, 0, 300), whole=True)] == ["7"]


def test_pixels_rise_to_the_right() -> None:
    scale = across(0, 10, 500)
    assert (scale.px(0), scale.px(10), scale.px(5)) == (LEFT, 500 - RIGHT, (LEFT + 500 - RIGHT) / 2)


def test_what_begins_near_each_other_stands_in_rows() -> None:
    assert rows_apart([0, 5, 10, 30, 52], 22) == [0, 1, 2, 0, 0]
    assert rows_apart([], 22) == []


durations = st.lists(st.floats(0, 1e4, allow_nan=False), min_size=3, max_size=200)


@given(durations)
def test_a_histogram_counts_every_value_once_and_stays_within_its_frame(values_s: list[float]) -> None:
    plot = histogram("x", "X", "things", values_s)
    assert sum(int(row[2]) for row in plot.table.rows) == len(values_s)
    assert len(plot.bars) == len(plot.table.rows)
    for bar in plot.bars:
        assert LEFT <= bar.x <= bar.x + bar.width <= plot.width - RIGHT
        assert TOP <= bar.y <= bar.y + bar.height <= HEIGHT - BOTTOM + 0.1
        assert bar.width > 0


@given(durations)
def test_a_curve_rises_from_nothing_to_all(values_s: list[float]) -> None:
    plot = cumulative("x", "X", [("a", values_s), ("b", values_s[:1])])
    points = [tuple(map(float, pair.split(","))) for pair in plot.lines[0].points.split()]
    assert points[0] == (LEFT, HEIGHT - BOTTOM)
    assert points[-1][1] == TOP
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert plot.table.rows[-1] == ("100%", f"{max(values_s):.2f}", f"{values_s[0]:.2f}")
    assert [line.name for line in plot.lines] == ["a", "b"]
