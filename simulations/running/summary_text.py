"""The summary of a sweep as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from simulations.running.statistics import Finding, Spread, Summary
from simulations.running.store import Header


def summary_lines(summary: Summary, header: Header) -> Iterator[str]:
    yield f"{header.scenario}: {summary.seeds} seeds, {hours_text(summary.virtual_hours)} of virtual time"
    asked = sum(summary.requests.values())
    told = ", ".join(f"{count} {status}" for status, count in summary.requests.items() if count)
    yield f"  requests       {asked}" + (f": {told}" if told else "")
    yield f"  tokens         {summary.tokens}"
    yield f"  availability   {availability_text(summary.availability)}"
    yield f"  failover       {spread_text(summary.failover)}"
    yield f"  detection      {spread_text(summary.detection)}"
    yield f"  false deaths   {summary.false_deaths}"
    yield f"  violations     {summary.violations}"
    yield f"  not as promised  {summary.missed}"
    for finding in summary.findings:
        yield from _finding_lines(finding, header)


def spread_text(spread: Spread | None) -> str:
    if spread is None:
        return "none happened"
    return f"{spread.count}: p50 {spread.p50_s:.2f} s, p99 {spread.p99_s:.2f} s, max {spread.max_s:.2f} s"


def availability_text(share: float | None) -> str:
    return "nothing was asked" if share is None else f"{share:.3%}"


def hours_text(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.1f} min"


def _finding_lines(finding: Finding, header: Header) -> Iterator[str]:
    yield f"{finding.rule}: {finding.times} times with {finding.seeds} seeds. {finding.sentence}"
    first = next(iter(finding.detail.splitlines()), "")
    yield f"    seed {finding.first_seed}: {textwrap.shorten(first, 200)}"
    yield f"    {header.command(finding.first_seed)}"
