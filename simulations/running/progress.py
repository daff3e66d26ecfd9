"""How far a run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """At `at_s` of `until_s` virtual seconds, with so many `sessions` under way."""

    at_s: float
    until_s: float
    events: int
    sessions: int
    violations: int


OnProgress = Callable[[Progress], None]
