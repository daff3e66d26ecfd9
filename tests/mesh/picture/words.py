"""Peers by number, and what they say of each other."""

from __future__ import annotations

from mesh.picture.evidence import Ledger
from mesh.picture.hearsay import Hearsay
from protocols.ids import PeerId
from protocols.observations import Evidence, Facet, Observations, Outcome, Tally

GOOD, BAD = Evidence(20, 0), Evidence(0, 20)


def peer(number: int) -> PeerId:
    """A peer id of the right form."""
    digits = f"{number:044d}".translate(str.maketrans("0123456789", "ABCDEFGHJK"))
    return PeerId(f"12D3KooW{digits}")


OWN = peer(0)


def claim(subject: PeerId, evidence: Evidence) -> Observations:
    """The same in every facet."""
    return Observations(subject, 0, Tally(), (evidence,) * len(Facet))


def observed(good: dict[PeerId, int], bad: dict[PeerId, int], now: float = 0.0) -> Ledger:
    """A ledger with so many audited and failed things each, good and bad in every facet that decides."""
    ledger = Ledger()
    for subject, count in good.items():
        for _ in range(count):
            for _ in range(5):
                ledger.observe(subject, Outcome.SERVED, "", now, now)
    for subject, count in bad.items():
        for _ in range(count):
            for outcome in (Outcome.WRONG, Outcome.FAILED, Outcome.LATE):
                ledger.observe(subject, outcome, "", now, now)
    return ledger


def told(
    hearsay: Hearsay, ledger: Ledger, reporter: PeerId, words: dict[PeerId, Evidence], now: float = 0.0
) -> None:
    for subject, evidence in words.items():
        hearsay.hear(reporter, claim(subject, evidence), ledger, now)
