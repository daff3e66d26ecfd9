"""How many rows are worth computing together: read off what a layer takes at a few row counts.

A layer takes about a + b r for r rows: a to read its weights, b to compute a row. While a is most of it, further rows are
nearly free; where b r is most of it, they wait for each other and nobody gains. With c(r) as measured,

    rows_max   the fewest rows r whose pace r / c(r) reaches nine tenths of the best pace measured
    rows_free  the most rows r that take at most a quarter longer than one: c(r) <= 1.25 c(1)

Both are found among the row counts that were tried. Pure: steps and clock are handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

ROWS_TRIED: Final = (1, 2, 4, 8, 16, 32)
PACE_SHARE: Final = 0.9
FREE_FACTOR: Final = 1.25
_BUDGET_S: Final = 0.2
_ROUNDS_MAX: Final = 8
_ROUNDS_MIN: Final = 2  # the first also builds the kernels and is not counted


@dataclass(frozen=True, slots=True)
class BatchRows:
    """`best` is the most rows to be computed together, and `free` those that cost about what one costs."""

    best: int
    free: int


UNMEASURED: Final = BatchRows(best=16, free=4)
"""Where a clock shows nothing: what kernels that are bound by memory bear everywhere."""


def measure_costs(step: Callable[[int], None], monotonic: Callable[[], float]) -> dict[int, float]:
    """The quickest of several steps at each of `ROWS_TRIED`, in seconds: the quickest is what others on the machine disturb
    least. Takes about 0.2 s, or two steps of each where they are long."""
    costs_s: dict[int, float] = {}
    began = monotonic()
    for round_number in range(_ROUNDS_MAX):
        for rows in ROWS_TRIED:
            step_began = monotonic()
            step(rows)
            took_s = monotonic() - step_began
            if round_number:
                costs_s[rows] = min(took_s, costs_s.get(rows, took_s))
        if round_number + 1 >= _ROUNDS_MIN and monotonic() - began > _BUDGET_S:
            break
    return costs_s


def batch_rows(costs_s: Mapping[int, float]) -> BatchRows:
    """From what steps of so many rows take; `UNMEASURED` if the clock stood still."""
    if min(costs_s.values(), default=0.0) <= 0:
        return UNMEASURED
    paces = {rows: rows / cost_s for rows, cost_s in costs_s.items()}
    best_pace = max(paces.values())
    fewest = min(costs_s)
    return BatchRows(
        best=min(rows for rows, pace in paces.items() if pace >= PACE_SHARE * best_pace),
        free=max(rows for rows, cost_s in costs_s.items() if cost_s <= FREE_FACTOR * costs_s[fewest]),
    )
