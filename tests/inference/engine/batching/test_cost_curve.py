"""How many rows go together, read off curves, and how the curve is measured."""

from __future__ import annotations

import pytest

from inference.engine.batching.cost_curve import ROWS_TRIED, UNMEASURED, BatchRows, batch_rows, measure_costs


def affine(fixed: float, per_row: float) -> dict[int, float]:
    return {rows: fixed + per_row * rows for rows in ROWS_TRIED}


@pytest.mark.parametrize(
    ("costs_s", "found"),
    [
        (affine(1.0, 0.0), BatchRows(32, 32)),  # reading weights is all
        (affine(0.0, 1.0), BatchRows(1, 1)),  # every row costs the same again
        (affine(1.0, 0.01), BatchRows(32, 16)),
        (affine(1.0, 0.1), BatchRows(32, 2)),
        (affine(1.0, 1.0), BatchRows(8, 1)),
        ({1: 1.0, 2: 1.1, 4: 1.2, 8: 2.4, 16: 4.8, 32: 9.6}, BatchRows(4, 4)),
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 4.0, 32: 8.0}, BatchRows(8, 8)),
        ({1: 3.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0, 32: 1.0}, BatchRows(32, 32)),  # a hiccup on the first
        (dict.fromkeys(ROWS_TRIED, 0.0), UNMEASURED),
        ({}, UNMEASURED),
    ],
)
def test_the_cap_stands_where_another_row_stops_paying(costs_s: dict[int, float], found: BatchRows) -> None:
    assert batch_rows(costs_s) == found


def test_the_quickest_of_several_steps_counts_and_the_first_does_not() -> None:
    now = 0.0
    steps: list[int] = []

    def step(rows: int) -> None:
        nonlocal now
        steps.append(rows)
        is_first = steps.count(rows) == 1
        disturbed = steps.count(rows) == 3
        now += 0.0 if is_first else 0.001 * rows * (5 if disturbed else 1)

    costs_s = measure_costs(step, lambda: now)
    assert costs_s == pytest.approx({rows: 0.001 * rows for rows in ROWS_TRIED})


@pytest.mark.parametrize(("step_s", "times"), [(1.0, 2), (1e-6, 8)])
def test_slow_layers_are_tried_twice_and_quick_ones_a_few_times(step_s: float, times: int) -> None:
    steps: list[int] = []
    measure_costs(steps.append, lambda: step_s * len(steps))
    assert len(steps) == times * len(ROWS_TRIED)
