"""Timing a layer ends within its budget of steps and of milliseconds."""

from __future__ import annotations

from itertools import count

import pytest

from inference.engine.numerics.measure import measure_layer
from protocols.placement import LayerShape

SHAPE = LayerShape(48, 112, 4, 2, 16, "bf16")


@pytest.mark.parametrize(("tick_s", "reads"), [(0.001, 100), (0.04, 4), (3.0, 2), (0.0, 128)])
def test_steps_are_taken_until_the_budget_is_spent(tick_s: float, reads: int) -> None:
    ticks = count()
    assert measure_layer(SHAPE, lambda: next(ticks) * tick_s) == pytest.approx(tick_s * 1e3)
    assert next(ticks) == pytest.approx(reads, abs=2)
