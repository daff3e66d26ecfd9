"""The page of a sweep: HTML with everything in it, for light and dark, readable without seeing the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import jinja2

from protocols.errors import NotFound
from simulations.report.distributions import cumulative, histogram
from simulations.report.plot import Plot
from simulations.report.seeds import availability_plot, availability_words, seeds_table, worst_first
from simulations.report.timeline import tokens_plot
from simulations.running.outcome import Outcome
from simulations.running.statistics import Summary, agreements_s, delays_s, pauses_s, summarise
from simulations.running.store import Broken, Store
from simulations.running.summary_text import availability_text, hours_text

TEMPLATE: Final = "page.html.jinja"
MANY: Final = 3
"""Fewer values are better said than drawn."""


def page(store: Store, seed: int | None = None) -> str:
    """`seed` is the one whose time line is drawn; the worst otherwise. Raises `NotFound` if the sweep has no outcome of it."""
    ordered = sorted(store.results.values(), key=lambda result: result.seed)
    outcomes = [result for result in ordered if isinstance(result, Outcome)]
    broken = [result for result in ordered if isinstance(result, Broken)]
    summary = summarise(outcomes, len(broken))
    chosen = _chosen(outcomes, seed)
    return _template().render(
        header=store.header,
        note=store.note,
        summary=summary,
        headlines=_headlines(summary),
        failover=_failover(outcomes),
        detection=_detection(outcomes),
        availability=(availability_words(outcomes), availability_plot(outcomes)),
        chosen=chosen,
        is_worst=seed is None,
        tokens=tokens_plot(chosen) if chosen else None,
        findings=[(finding, store.header.command(finding.first_seed)) for finding in summary.findings],
        broken=[(each, store.header.command(each.seed)) for each in broken],
        seeds=seeds_table(outcomes),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simulations.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _headlines(summary: Summary) -> list[tuple[str, str, str]]:
    """Figure, what it is of, and whether it is good, bad, or neither."""
    found = summary.violations + summary.missed + summary.broken
    headlines = [
        (str(found), "findings", "bad" if found else "good"),
        (str(summary.seeds), "seeds", ""),
        (hours_text(summary.virtual_hours), "virtual time", ""),
        (str(sum(summary.requests.values())), "requests", ""),
        (availability_text(summary.availability), "availability", ""),
    ]
    for name, spread in (("failover", summary.failover), ("detection", summary.detection)):
        if spread is not None:
            headlines += [
                (f"{spread.p50_s:.2f} s", f"{name}, median", ""),
                (f"{spread.p99_s:.2f} s", f"{name}, p99", ""),
                (f"{spread.max_s:.2f} s", f"{name}, longest", ""),
            ]
    false = summary.false_deaths
    return [*headlines, (str(false), "false deaths", "bad" if false else "good")]


def _failover(outcomes: Sequence[Outcome]) -> tuple[str, list[Plot]]:
    """Words, and plots if there is enough to draw."""
    values_s = [pause_s for outcome in outcomes for pause_s in pauses_s(outcome.requests)]
    if not values_s:
        return "No session lost a stage, so there was no failover.", []
    if len(values_s) < MANY:
        return f"Too few to draw: {_listed(values_s)}.", []
    title, noun = "Failover", "failovers"
    return "", [
        histogram("failover", title, noun, values_s),
        cumulative("failover", title, [(noun, values_s)]),
    ]


def _detection(outcomes: Sequence[Outcome]) -> tuple[str, list[Plot]]:
    first_s, all_s = delays_s(outcomes), agreements_s(outcomes)
    if not first_s:
        return "No node that had ended was called dead.", []
    if len(first_s) < MANY:
        return f"Too few to draw: {_listed(first_s)} until the first knew.", []
    series = [("first to know", first_s), *([("everybody knows", all_s)] if all_s else [])]
    return "", [
        histogram("detection", "Detection by the first", "deaths", first_s),
        cumulative("detection", "Detection", series),
    ]


def _listed(values_s: Sequence[float]) -> str:
    return " and ".join(f"{value_s:.2f} s" for value_s in sorted(values_s))


def _chosen(outcomes: Sequence[Outcome], seed: int | None) -> Outcome | None:
    if seed is None:
        return worst_first(outcomes)[0] if outcomes else None
    found = next((outcome for outcome in outcomes if outcome.seed == seed), None)
    if found is None:
        raise NotFound(f"this sweep has no outcome of seed {seed}: leave out --seed for the worst one.")
    return found
