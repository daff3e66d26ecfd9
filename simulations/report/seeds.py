"""What is told seed by seed: how available each was, which is the worst, and a table of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from simulations.report.plot import Dot, Plot, Table, across, ticks, upwards
from simulations.running.outcome import Outcome
from simulations.running.statistics import STATUSES, availability, pauses_s

WIDTH: Final = 1060
SHOWN: Final = 200


def availability_words(outcomes: Sequence[Outcome]) -> str:
    shares = _shares(outcomes)
    if not shares:
        return "No request was answered, so there is no availability."
    whole, lowest = sum(share == 1 for _, share in shares), min(share for _, share in shares)
    if whole == len(shares):
        return f"Every request was served, with {_counted(whole)}."
    return f"{whole} of {_counted(len(shares))} served every request; the least available one served {lowest:.2%}."


def availability_plot(outcomes: Sequence[Outcome]) -> Plot | None:
    """None if words say it all. The axis is cut where everything lies near the top."""
    shares = _shares(outcomes)
    less = [(seed, share) for seed, share in shares if share < 1]
    if len(shares) < 2 or not less:
        return None
    lowest = min(share for _, share in less)
    floor = next(low for low in (0.99, 0.9, 0.5, 0.0) if lowest >= low)
    x = across(shares[0][0] - 0.5, shares[-1][0] + 0.5, WIDTH)
    y = upwards(100 * floor, 100)
    return Plot(
        name="availability",
        title="Availability per seed",
        says=availability_words(outcomes),
        width=WIDTH,
        x_label="seed",
        y_label="requests served" + (f" (axis begins at {100 * floor:.0f} %)" if floor else ""),
        x_ticks=ticks(x, whole=True),
        y_ticks=ticks(y, " %"),
        dots=tuple(
            Dot(x.px(seed), y.px(100 * share), "good" if share == 1 else "bad", f"seed {seed}: {share:.2%}")
            for seed, share in shares
        ),
        table=Table(
            "Seeds that did not serve every request",
            ("seed", "served"),
            tuple((str(seed), f"{share:.2%}") for seed, share in sorted(less, key=lambda row: row[1])),
        ),
    )


def _shares(outcomes: Sequence[Outcome]) -> list[tuple[int, float]]:
    told = ((each.seed, availability(each.requests)) for each in outcomes)
    return [(seed, share) for seed, share in told if share is not None]


def _counted(seeds: int) -> str:
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}"


def worst_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Violations, then broken promises, then what readers felt, then the smaller seed."""

    def badness(outcome: Outcome) -> tuple[float, ...]:
        share = availability(outcome.requests)
        longest_s = max(pauses_s(outcome.requests), default=0.0)
        served = 1.0 if share is None else share
        return -len(outcome.violations), -len(outcome.missed), served, -longest_s, outcome.seed

    return sorted(outcomes, key=badness)


def seeds_table(outcomes: Sequence[Outcome]) -> Table:
    """The worst first, and no more of them than people read."""
    shown = worst_first(outcomes)[:SHOWN]
    which = f"the {SHOWN} worst of {len(outcomes)}" if len(outcomes) > SHOWN else "the worst first"
    heads = ("seed", "nodes", "virtual s", *STATUSES, "failovers", "longest (s)", "findings", "digest")
    return Table(f"Seeds, {which}", heads, tuple(map(_row, shown)))


def _row(outcome: Outcome) -> tuple[str, ...]:
    statuses = Counter(request.status for request in outcome.requests)
    paused_s = pauses_s(outcome.requests)
    return (
        str(outcome.seed),
        str(outcome.nodes),
        f"{outcome.virtual_s:.1f}",
        *(str(statuses[status]) for status in STATUSES),
        str(len(paused_s)),
        f"{max(paused_s):.2f}" if paused_s else "",
        str(len(outcome.violations) + len(outcome.missed)),
        outcome.digest[:12],
    )
