"""What many runs come to. Pure: outcomes in, figures out; None where there is nothing to measure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from simulations.running.outcome import Detection, Outcome, RequestOutcome

STATUSES: Final = ("finished", "cancelled", "failed", "lost", "unfinished")


class Spread(Struct, frozen=True):
    """Of durations, in seconds."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


class Finding(Struct, frozen=True):
    """One invariant that did not hold, or promise that was not kept: how often, and the least of the seeds that show it."""

    rule: str
    sentence: str
    times: int
    seeds: int
    first_seed: int
    detail: str


class Summary(Struct, frozen=True):
    """`availability`: of the requests that were answered, and whose entry node lived, the share that was served as asked.

    `false_deaths` were told of nodes that ran. `broken`: seeds without an outcome.
    """

    seeds: int
    virtual_hours: float
    wall_hours: float
    requests: dict[str, int]
    tokens: int
    availability: float | None
    failover: Spread | None
    detection: Spread | None
    false_deaths: int
    violations: int
    missed: int
    broken: int
    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        return not (self.violations or self.missed or self.broken)


def summarise(outcomes: Iterable[Outcome], broken: int = 0) -> Summary:
    """The same for the same outcomes in any order."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.seed)
    requests = [request for outcome in ordered for request in outcome.requests]
    statuses = Counter(request.status for request in requests)
    return Summary(
        seeds=len(ordered),
        virtual_hours=sum(outcome.virtual_s for outcome in ordered) / 3600,
        wall_hours=sum(outcome.wall_s for outcome in ordered) / 3600,
        requests={status: statuses[status] for status in STATUSES},
        tokens=sum(len(request.token_at_s) for request in requests),
        availability=availability(requests),
        failover=spread(pauses_s(requests)),
        detection=spread(delays_s(ordered)),
        false_deaths=sum(each.down_at_s is None for outcome in ordered for each in outcome.detections),
        violations=sum(len(outcome.violations) for outcome in ordered),
        missed=sum(len(outcome.missed) for outcome in ordered),
        broken=broken,
        findings=_findings(ordered),
    )


def availability(requests: Iterable[RequestOutcome]) -> float | None:
    served = failed = 0
    for request in requests:
        served += request.status in {"finished", "cancelled"} and request.is_exact
        failed += request.status == "failed" or not request.is_exact
    return served / (served + failed) if served + failed else None


def pauses_s(requests: Iterable[RequestOutcome]) -> list[float]:
    return [failover.pause_s for request in requests for failover in request.failovers]


def delays_s(outcomes: Iterable[Outcome]) -> list[float]:
    """From a node's end to the first that calls it dead."""
    return [
        _delay_s(each) for outcome in outcomes for each in outcome.detections if each.down_at_s is not None
    ]


def agreements_s(outcomes: Iterable[Outcome]) -> list[float]:
    """From a node's end until everybody calls it dead, where that came to pass."""
    return [
        each.all_s - each.down_at_s
        for outcome in outcomes
        for each in outcome.detections
        if each.down_at_s is not None and each.all_s is not None
    ]


def spread(values_s: Sequence[float]) -> Spread | None:
    if not values_s:
        return None
    return Spread(len(values_s), percentile(values_s, 0.5), percentile(values_s, 0.99), max(values_s))


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank: the least value that `share` of all do not exceed, so a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def _delay_s(detection: Detection) -> float:
    assert detection.down_at_s is not None
    return detection.first_s - detection.down_at_s


def _findings(outcomes: Sequence[Outcome]) -> tuple[Finding, ...]:
    """By rule, the most frequent first."""
    told: dict[str, list[tuple[int, str, str]]] = {}
    for outcome in outcomes:
        for violation in outcome.violations:
            row = (outcome.seed, violation.sentence, violation.detail)
            told.setdefault(violation.invariant, []).append(row)
        for miss in outcome.missed:
            rule, _, sentence = miss.partition(": ")
            told.setdefault(rule, []).append((outcome.seed, "what the scenario promises", sentence))
    return tuple(
        Finding(rule, rows[0][1], len(rows), len({seed for seed, _, _ in rows}), rows[0][0], rows[0][2])
        for rule, rows in sorted(told.items(), key=lambda item: (-len(item[1]), item[0]))
    )
