"""Reputation, as formulas: a decayed beta per peer and facet, and what follows from it.

    good <- min(60, good * 2^(-dt / 7 d)) + weight        bad <- bad * 2^(-dt / 28 d) + weight
    mean = (good + 1) / (good + bad + 3)                  bound = mean - 0.6 * sqrt(mean * (1 - mean) / (good + bad + 4))
    overall = bound(correctness)^0.5 * bound(liveness)^0.3 * bound(speed)^0.2

What is bad is remembered longer than what is good, so that behaving well and badly by turns earns a bad name. The bound is
that of the beta distribution with the prior (1, 2): little evidence counts for less than much of the same kind.

A choice is made by `standing`, not by `overall`: the share of its overall score that bad evidence has left a peer. It is 1
for a stranger as for a peer that never failed, so that a new mesh runs as if nobody kept records, and nobody has to be
served badly first before a stranger is tried; new identities are scarce because certificates are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from protocols.observations import BAD_MAX, GOOD_MAX, Evidence, Facet, Outcome, Tally

DAY_S: Final = 86_400.0
GOOD_HALF_LIFE_S: Final = 7 * DAY_S
BAD_HALF_LIFE_S: Final = 28 * DAY_S
PRIOR_GOOD: Final = 1.0
PRIOR_BAD: Final = 2.0
CAUTION: Final = 0.6  # standard deviations below the mean

IMPORTANCE: Final[Mapping[Facet, float]] = MappingProxyType(
    {Facet.CORRECTNESS: 0.5, Facet.LIVENESS: 0.3, Facet.SPEED: 0.2}
)
"""Cooperation is shown, and decides nothing yet."""

Weights = Mapping[Facet, Evidence]

_UNAUDITED: Final = Evidence(good=0.2)
WEIGHTS: Final[Mapping[Outcome, Weights]] = MappingProxyType(
    {
        Outcome.SERVED: dict.fromkeys(Facet, _UNAUDITED),
        Outcome.AUDITED: {Facet.CORRECTNESS: Evidence(good=1.0)},
        Outcome.WRONG: {Facet.CORRECTNESS: Evidence(bad=12.0)},
        Outcome.FAILED: {Facet.LIVENESS: Evidence(bad=1.0)},
        Outcome.LATE: {Facet.SPEED: Evidence(bad=0.3)},
        # One that claims a range and takes nobody on is as good as late; who blames another wrongly pays as much.
        Outcome.REFUSED: {Facet.COOPERATION: Evidence(bad=1.0), Facet.LIVENESS: Evidence(bad=0.3)},
        Outcome.DISPUTED: {Facet.LIVENESS: Evidence(bad=0.3)},
    }
)
_GOOD_OUTCOMES: Final = (Outcome.SERVED, Outcome.AUDITED)

DISTRUSTED: Final = 0.5
"""Wrong results, decayed: after one, a peer is distrusted for 28 days, after two for 56."""


def all_decayed(facets: Sequence[Evidence], elapsed_s: float) -> tuple[Evidence, ...]:
    """The evidence as it counts `elapsed_s` later."""
    good, bad = _fading(elapsed_s)
    return tuple(Evidence(each.good * good, each.bad * bad) for each in facets)


def _fading(elapsed_s: float) -> tuple[float, float]:
    """What is left of one that is good and of one that is bad; a clock that stepped back changes nothing."""
    elapsed_s = max(0.0, elapsed_s)
    return math.exp2(-elapsed_s / GOOD_HALF_LIFE_S), math.exp2(-elapsed_s / BAD_HALF_LIFE_S)


def added(evidence: Evidence, more: Evidence) -> Evidence:
    """Both together, with good capped."""
    return Evidence(min(GOOD_MAX, evidence.good + more.good), min(BAD_MAX, evidence.bad + more.bad))


def mean(evidence: Evidence) -> float:
    """The expected share of good."""
    good = evidence.good + PRIOR_GOOD
    return good / (good + evidence.bad + PRIOR_BAD)


def lower_bound(evidence: Evidence) -> float:
    """In 0..1; rises with good, falls with bad."""
    expected = mean(evidence)
    mass = evidence.mass + PRIOR_GOOD + PRIOR_BAD
    return max(0.0, expected - CAUTION * math.sqrt(expected * (1 - expected) / (mass + 1)))


def overall(facets: Sequence[Evidence]) -> float:
    """In 0..1: 0.19 for a stranger, near 1 for a peer with a long good record."""
    return math.prod(math.pow(lower_bound(facets[facet]), weight) for facet, weight in IMPORTANCE.items())


def standing(facets: Sequence[Evidence]) -> float:
    """In 0..1: what bad evidence has left of the overall score; 1 where there is none."""
    return math.prod(
        math.pow(lower_bound(facets[facet]) / lower_bound(Evidence(facets[facet].good)), weight)
        for facet, weight in IMPORTANCE.items()
    )


def tallied(tally: Tally, outcome: Outcome) -> Tally:
    """One more of that outcome."""
    name = outcome.name.lower()
    counts = {each: getattr(tally, each) for each in Tally.__struct_fields__}
    return Tally(**(counts | {name: min(1e9, counts[name] + 1)}))


def decayed_tally(tally: Tally, elapsed_s: float) -> Tally:
    """Good outcomes fade as good evidence does, the others as bad."""
    good, bad = _fading(elapsed_s)
    return Tally(
        *(
            getattr(tally, outcome.name.lower()) * (good if outcome in _GOOD_OUTCOMES else bad)
            for outcome in Outcome
        )
    )


def is_distrusted(tally: Tally) -> bool:
    """Whether it computed wrongly, not long ago: it is taken only where nobody else is left."""
    return tally.wrong >= DISTRUSTED
