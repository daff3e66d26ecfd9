from __future__ import annotations

import pytest

from simulations.running.statistics import Finding, Spread, availability, percentile, spread, summarise
from simulations.running.summary_text import summary_lines
from tests.simulations.running.outcomes import HEADER, TWICE, eventful, outcome, request


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.0, 7.0),
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 102)], 0.99, 100.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((), None),
        (("lost", "unfinished"), None),
        (("finished", "cancelled", "lost"), 1.0),
        (("finished", "failed"), 0.5),
        (("failed",), 0.0),
    ],
)
def test_what_counts_as_served(statuses: tuple[str, ...], expected: float | None) -> None:
    assert availability(request(n, status) for n, status in enumerate(statuses)) == expected


def test_a_wrong_text_is_not_served_and_counts_once() -> None:
    assert availability([request(0), request(1, is_exact=False), request(2, "failed", is_exact=False)]) == (
        pytest.approx(1 / 3)
    )


def test_a_sweep_comes_to_its_figures_in_any_order() -> None:
    outcomes = [eventful(4), outcome(9), eventful(2)]
    summary = summarise(outcomes, broken=1)
    assert summary == summarise(reversed(outcomes), broken=1)
    assert summary.seeds == 3
    assert summary.virtual_hours == pytest.approx(0.1)
    assert summary.requests == {"finished": 3, "cancelled": 2, "failed": 2, "lost": 2, "unfinished": 0}
    assert summary.tokens == 9 * 40
    assert summary.availability == pytest.approx(5 / 7)
    assert summary.failover == Spread(6, 1.25, 2.0, 2.0)
    assert summary.detection == Spread(6, 1.5, 2.0, 2.0)
    assert (summary.false_deaths, summary.violations, summary.missed, summary.broken) == (2, 2, 2, 1)
    assert summary.findings == (
        Finding("S1", TWICE.sentence, 2, 2, 2, TWICE.detail),
        Finding(
            "failover_max_s",
            "what the scenario promises",
            2,
            2,
            2,
            "request 3 paused for 2.00 s, and at most 1 s were promised",
        ),
    )


@pytest.mark.parametrize(
    ("summary", "is_good"),
    [
        (summarise([]), True),
        (summarise([outcome(1)]), True),
        (summarise([outcome(1)], broken=1), False),
        (summarise([outcome(1, missed=("false_deaths: one",))]), False),
        (summarise([outcome(1, violations=(TWICE,))]), False),
    ],
)
def test_a_sweep_is_good_without_findings(summary: object, is_good: bool) -> None:
    assert summary.is_good is is_good  # type: ignore[attr-defined]


def test_nothing_measured_is_no_figure() -> None:
    assert spread([]) is None
    said = "\n".join(summary_lines(summarise([]), HEADER))
    assert "failover       none happened" in said
    assert "nothing was asked" in said


def test_the_summary_names_the_command_that_shows_a_finding() -> None:
    said = "\n".join(summary_lines(summarise([eventful(4), eventful(2)]), HEADER))
    assert "S1: 2 times with 2 seeds. A client sees every token once." in said
    assert "seed 2: request 0 saw position 17 twice" in said
    assert "weft sim run churn --seed 2 --nodes 5 --minutes 2\n" in said
    assert "p50 1.25 s, p99 2.00 s, max 2.00 s" in said
