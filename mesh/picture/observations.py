"""Observations as gossip items: when to tell them, what to say, and what of others' to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mesh.picture.evidence import Ledger
from mesh.picture.reputation import WEIGHTS
from protocols import limits
from protocols.errors import Dishonest, Malformed
from protocols.gossip import Heard
from protocols.ids import PeerId
from protocols.observations import OBSERVATIONS_CODEC, Observations, Outcome

TOLD_AT_ONCE_MAX: Final = 64  # a node that starts again tells its whole ledger, little by little


def observations_of(subject: PeerId, ledger: Ledger, now: float, wall_s: float) -> Observations:
    """What this node tells about a peer at present."""
    facets = ledger.facets(subject, now)
    return Observations(subject, int(wall_s * 1000), ledger.tally(subject, now), facets)


def decode_observations(heard: Heard) -> Observations | None:
    """None if they are withdrawn. Raises `Malformed`; `Dishonest` for praise of oneself, or a date after the bundle's own.

    This node's clock has no say in it: a word that one member takes and another doesn't would not come to that one again,
    not even when its clock is right.
    """
    if not heard.body:
        return None
    told = OBSERVATIONS_CODEC.decode(heard.body)
    if told.subject != heard.key:
        raise Malformed("observations of one peer under the key of another", heard.author)
    if told.subject == heard.author:
        raise Dishonest("a peer can't observe itself", heard.author)
    ahead_s = (told.made_ms - heard.made_ms) / 1000
    if ahead_s > limits.OBSERVATION_SKEW_S:
        raise Dishonest(f"observations dated {ahead_s:.0f} s after they were told", heard.author)
    return told


@dataclass(slots=True)
class _Pace:
    told_s: float | None = None
    is_news: bool = False
    is_bad_news: bool = False

    def is_due(self, now: float) -> bool:
        if self.told_s is None:
            return True
        since_s = now - self.told_s
        if self.is_bad_news:
            return since_s >= limits.OBSERVATIONS_S
        return since_s >= (limits.OBSERVATIONS_GOOD_S if self.is_news else limits.OBSERVATIONS_TTL_S / 2)


class Announcements:
    """Which subjects are to be told about: after a change, not too often, and again before others forget."""

    def __init__(self, subjects: Iterable[PeerId] = ()) -> None:
        self._paces = {subject: _Pace() for subject in subjects}

    def changed(self, subject: PeerId, outcome: Outcome) -> None:
        pace = self._paces.setdefault(subject, _Pace())
        pace.is_news = True
        pace.is_bad_news |= any(weight.bad for weight in WEIGHTS[outcome].values())

    def due(self, ledger: Ledger, now: float) -> list[PeerId]:
        """Those to tell about now, which count as told; one that the ledger let go of is forgotten here as well."""
        for gone in [subject for subject in self._paces if subject not in ledger]:
            del self._paces[gone]
        found = [subject for subject, pace in self._paces.items() if pace.is_due(now)][:TOLD_AT_ONCE_MAX]
        for subject in found:
            self._paces[subject] = _Pace(now)
        return found
