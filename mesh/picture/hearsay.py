"""Hearsay: what other members say of a peer, and how much of it counts here.

    trust(reporter) = max(0, 2 * E[Beta(agreed + 1, contradicted + 1)] - 1)
    counted mass    <= 10 / (1 + own mass / 10), per subject and facet, of all reporters together

A report is tested on the peers of which this node has evidence of its own, at least 5, and the reporter as well: it agrees
if the means are less than 0.25 apart in every facet that both can judge. Until it has agreed, a reporter counts for
nothing, so that strangers in any number change no score. Reporters with one sponsor stand or fall together: their reports
are averaged by their trust, and count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mesh.picture.evidence import Ledger
from mesh.picture.reputation import all_decayed, decayed_tally, mean
from protocols import limits
from protocols.ids import PeerId
from protocols.observations import Evidence, Facet, Observations, Tally

TESTABLE_MASS: Final = 5.0
DEVIATION_MAX: Final = 0.25
MASS_MAX: Final = 10.0
TESTED_SUBJECTS_MAX: Final = 64  # own observations that reporters are tested on: the newest
TRUST_S: Final = 5.0  # trust is worked out again after this
SPONSORS_MAX: Final = 8  # followed upwards; a chain of certificates is shorter

SponsorOf = Callable[[PeerId], PeerId | None]
"""Who vouched for a member; None for a founder, or where it is not known."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one reporter says of one subject, as it counted when it was `heard_s`."""

    facets: tuple[Evidence, ...]
    tally: Tally
    heard_s: float

    def facets_at(self, now: float) -> tuple[Evidence, ...]:
        return all_decayed(self.facets, now - self.heard_s)

    def stands_at(self, now: float) -> bool:
        """A reporter that is still there repeats itself in time."""
        return now - self.heard_s <= limits.OBSERVATIONS_TTL_S

    def tally_at(self, now: float) -> Tally:
        return decayed_tally(self.tally, now - self.heard_s)


@dataclass(frozen=True, slots=True)
class Trust:
    """On how many peers a reporter agreed with this node's own observations, and on how many it contradicted them."""

    agreed: int = 0
    contradicted: int = 0

    @property
    def weight(self) -> float:
        """In 0..1."""
        return max(0.0, (self.agreed - self.contradicted) / (self.agreed + self.contradicted + 2))


@dataclass(frozen=True, slots=True)
class Weighed:
    """A report and what became of it. `claimed` and `counted` are masses over all facets that decide a score."""

    reporter: PeerId
    group: PeerId
    trust: Trust
    tally: Tally
    claimed: float
    counted: float


@dataclass(frozen=True, slots=True)
class _Voice:
    """One reporter's word on a subject, decayed to now."""

    reporter: PeerId
    group: PeerId
    trust: Trust
    facets: tuple[Evidence, ...]


class Hearsay:
    """Reports by subject and reporter. `own` is this node; when the table is full, subjects that are no members go first."""

    def __init__(
        self,
        own: PeerId,
        sponsor_of: SponsorOf = lambda _: None,
        is_member: Callable[[PeerId], bool] = lambda _: True,
    ) -> None:
        self._own = own
        self._sponsor_of = sponsor_of
        self._is_member = is_member
        self._reports: dict[PeerId, dict[PeerId, Report]] = {}  # the one heard last stands last
        self._trusts: dict[PeerId, tuple[float, Trust]] = {}
        self._testable: tuple[float, dict[PeerId, Sequence[Evidence]]] = (-TRUST_S, {})

    def hear(self, reporter: PeerId, told: Observations, ledger: Ledger, now: float) -> bool:
        """Take a report in, in place of its reporter's last; whether there was room and reason to."""
        subject = told.subject
        if self._own in (reporter, subject) or reporter == subject:
            return False
        if subject not in self._reports and not self._has_room():
            return False
        reports = self._reports.setdefault(subject, {})
        if reporter not in reports and len(reports) >= limits.REPORTERS_PER_PEER_MAX:
            # Those who have proved themselves stay, whoever comes in numbers.
            unproven = (each for each in reports if not self.trust(each, ledger, now).weight)
            gone = next(unproven, None)
            if gone is None:
                return False
            del reports[gone]
        reports.pop(reporter, None)
        reports[reporter] = Report(
            tuple(_clipped(each) for each in told.facets[: len(Facet)]), told.tally, now
        )
        return True

    def forget(self, reporter: PeerId, subject: PeerId) -> None:
        """The reporter takes it back, or is no member any more; idempotent."""
        reports = self._reports.get(subject, {})
        reports.pop(reporter, None)
        if not reports:
            self._reports.pop(subject, None)

    def trust(self, reporter: PeerId, ledger: Ledger, now: float) -> Trust:
        """From the newest reports on peers that this node knows itself; at most `TRUST_S` old."""
        until_s, trust = self._trusts.get(reporter, (now, Trust()))
        if now < until_s:
            return trust
        if len(self._trusts) >= 2 * limits.MEMBERS_MAX:
            self._trusts.clear()
        agreed = contradicted = 0
        for subject, own in self._own_known(ledger, now).items():
            report = self._reports.get(subject, {}).get(reporter)
            verdict = _agrees(own, report.facets_at(now)) if report and report.stands_at(now) else None
            agreed += verdict is True
            contradicted += verdict is False
        trust = Trust(agreed, contradicted)
        self._trusts[reporter] = (now + TRUST_S, trust)
        return trust

    def combined(self, subject: PeerId, ledger: Ledger, now: float) -> tuple[Evidence, ...]:
        """Own evidence with what counts of the hearsay."""
        own = ledger.facets(subject, now)
        groups = _by_group(self._voices(subject, ledger, now))
        return tuple(
            _with(own[facet], [_opinion(voices, facet) for voices in groups.values()]) for facet in Facet
        )

    def weighed(self, subject: PeerId, ledger: Ledger, now: float) -> tuple[Weighed, ...]:
        """Every report on a subject and how much of it counts; those that count most come first."""
        own = ledger.facets(subject, now)
        voices = self._voices(subject, ledger, now)
        groups = _by_group(voices)
        reports = self._reports.get(subject, {})
        found = [
            Weighed(
                voice.reporter,
                voice.group,
                voice.trust,
                reports[voice.reporter].tally_at(now),
                sum(each.mass for each in voice.facets),
                sum(_counted(own[facet], voice, groups, facet) for facet in Facet),
            )
            for voice in voices
        ]
        return tuple(sorted(found, key=lambda each: (-each.counted, each.reporter)))

    def _has_room(self) -> bool:
        if len(self._reports) < limits.MEMBERS_MAX:
            return True
        invented = next((subject for subject in self._reports if not self._is_member(subject)), None)
        if invented is None:
            return False
        del self._reports[invented]
        return True

    def _voices(self, subject: PeerId, ledger: Ledger, now: float) -> list[_Voice]:
        return [
            _Voice(
                reporter,
                self._group_of(reporter),
                self.trust(reporter, ledger, now),
                report.facets_at(now),
            )
            for reporter, report in sorted(self._reports.get(subject, {}).items())
            if report.stands_at(now)
        ]

    def _group_of(self, reporter: PeerId) -> PeerId:
        """The branch it grew on: its ancestor next to a founder or to this node, whose word is not in question."""
        branch = reporter
        for _ in range(SPONSORS_MAX):
            sponsor = self._sponsor_of(branch)
            if sponsor is None or sponsor == self._own or self._sponsor_of(sponsor) is None:
                return branch
            branch = sponsor
        return branch

    def _own_known(self, ledger: Ledger, now: float) -> dict[PeerId, Sequence[Evidence]]:
        until_s, known = self._testable
        if now >= until_s:
            known = {}
            for subject in ledger.newest_subjects():
                facets = ledger.facets(subject, now)
                if any(each.mass >= TESTABLE_MASS for each in facets):
                    known[subject] = facets
                if len(known) >= TESTED_SUBJECTS_MAX:
                    break
            self._testable = (now + TRUST_S, known)
        return known


def _agrees(own: Sequence[Evidence], told: Sequence[Evidence]) -> bool | None:
    """None where they can't be compared."""
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(own, told, strict=True)
        if mine.mass >= TESTABLE_MASS and theirs.mass >= TESTABLE_MASS
    ]
    if not pairs:
        return None
    return all(abs(mean(mine) - mean(theirs)) < DEVIATION_MAX for mine, theirs in pairs)


def _clipped(evidence: Evidence) -> Evidence:
    """No report brings more than all of them may count for, or the loudest would drown the others."""
    share = min(1.0, MASS_MAX / evidence.mass) if evidence.mass else 1.0
    return Evidence(evidence.good * share, evidence.bad * share)


def _by_group(voices: Iterable[_Voice]) -> dict[PeerId, list[_Voice]]:
    groups: dict[PeerId, list[_Voice]] = {}
    for voice in voices:
        if voice.trust.weight:
            groups.setdefault(voice.group, []).append(voice)
    return groups


def _opinion(voices: Sequence[_Voice], facet: Facet) -> Evidence:
    """Of a group with one voice: the average by trust, as far as its most trusted member is trusted."""
    weights = [voice.trust.weight for voice in voices]
    most = max(weights) / sum(weights)
    told = [voice.facets[facet] for voice in voices]
    good = sum(weight * each.good for weight, each in zip(weights, told, strict=True))
    bad = sum(weight * each.bad for weight, each in zip(weights, told, strict=True))
    return Evidence(good * most, bad * most)


def _share(own: Evidence, opinions: Iterable[Evidence]) -> float:
    """The part of all opinions that may count beside so much own evidence."""
    mass_max = MASS_MAX / (1 + own.mass / 10)
    total = sum(each.mass for each in opinions)
    return min(1.0, mass_max / total) if total else 0.0


def _with(own: Evidence, opinions: Sequence[Evidence]) -> Evidence:
    share = _share(own, opinions)
    if not share:
        return own
    good = sum(each.good for each in opinions) * share
    bad = sum(each.bad for each in opinions) * share
    return Evidence(own.good + good, own.bad + bad)


def _counted(own: Evidence, voice: _Voice, groups: dict[PeerId, list[_Voice]], facet: Facet) -> float:
    voices = groups.get(voice.group, [])
    if not voice.trust.weight or not voices:
        return 0.0
    share = _share(own, [_opinion(each, facet) for each in groups.values()])
    total = sum(each.trust.weight for each in voices)
    most = max(each.trust.weight for each in voices) / total
    return voice.trust.weight * voice.facets[facet].mass * most * share
