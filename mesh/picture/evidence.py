"""The ledger: what this node itself saw of its peers, with the newest happenings word by word. Bounded, kept on disk.

Times given to it are in seconds of one clock that does not go back; `wall_s` is for people and for the file, from which
the time that the node was down counts as elapsed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec

from mesh.picture.reputation import WEIGHTS, added, all_decayed, decayed_tally, tallied
from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import PeerId
from protocols.membership import PeerIdText
from protocols.observations import NO_EVIDENCE, Evidence, Facet, Outcome, Tally

LEDGER_FILE: Final = "picture.msgpack"


class Happening(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a peer did; `detail` says in which session or for which model."""

    wall_s: float
    outcome: Outcome
    detail: str


class KeptRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record on disk, decayed up to when the file was written."""

    subject: PeerIdText
    facets: Annotated[tuple[Evidence, ...], msgspec.Meta(min_length=len(Facet), max_length=len(Facet))]
    tally: Tally
    happenings: Annotated[tuple[Happening, ...], msgspec.Meta(max_length=limits.EVIDENCE_PER_PEER_MAX)]


class KeptLedger(msgspec.Struct, frozen=True, array_like=True):
    saved_s: float
    records: Annotated[tuple[KeptRecord, ...], msgspec.Meta(max_length=limits.MEMBERS_MAX)]


_decoder: Final = msgspec.msgpack.Decoder(KeptLedger)


@dataclass(slots=True)
class Record:
    """What was seen of one peer, as it counted at `counted_s`."""

    counted_s: float
    facets: Sequence[Evidence] = (NO_EVIDENCE,) * len(Facet)
    tally: Tally = field(default_factory=Tally)
    happenings: deque[Happening] = field(default_factory=lambda: deque(maxlen=limits.EVIDENCE_PER_PEER_MAX))

    def add(self, outcome: Outcome, now: float) -> None:
        self.facets = tuple(
            added(evidence, WEIGHTS[outcome].get(facet, NO_EVIDENCE))
            for facet, evidence in zip(Facet, self.facets_at(now), strict=True)
        )
        self.tally = tallied(self.tally_at(now), outcome)
        self.counted_s = max(self.counted_s, now)

    def facets_at(self, now: float) -> tuple[Evidence, ...]:
        return all_decayed(self.facets, now - self.counted_s)

    def tally_at(self, now: float) -> Tally:
        return decayed_tally(self.tally, now - self.counted_s)


class Ledger:
    """Own observations, by peer."""

    def __init__(self, records: dict[PeerId, Record] | None = None) -> None:
        self._records = records or {}  # the one observed last stands last

    def observe(self, subject: PeerId, outcome: Outcome, detail: str, now: float, wall_s: float) -> None:
        """Takes the same time however much is known, unless a full table has to make room for a new subject."""
        record = self._records.pop(subject, None) or self._new(now)
        self._records[subject] = record
        record.add(outcome, now)
        record.happenings.append(Happening(wall_s, outcome, detail[: limits.EVIDENCE_LENGTH_MAX]))

    def facets(self, subject: PeerId, now: float) -> tuple[Evidence, ...]:
        record = self._records.get(subject)
        return record.facets_at(now) if record else (NO_EVIDENCE,) * len(Facet)

    def tally(self, subject: PeerId, now: float) -> Tally:
        record = self._records.get(subject)
        return record.tally_at(now) if record else Tally()

    def happenings(self, subject: PeerId) -> tuple[Happening, ...]:
        """The newest first."""
        record = self._records.get(subject)
        return tuple(reversed(record.happenings)) if record else ()

    def newest_subjects(self) -> Iterator[PeerId]:
        """Those that were seen last come first."""
        return reversed(self._records)

    def __contains__(self, subject: PeerId) -> bool:
        return subject in self._records

    def __len__(self) -> int:
        return len(self._records)

    def encode(self, now: float, wall_s: float) -> bytes:
        records = tuple(
            KeptRecord(subject, record.facets_at(now), record.tally_at(now), tuple(record.happenings))
            for subject, record in self._records.items()
        )
        return msgspec.msgpack.encode(KeptLedger(wall_s, records))

    @classmethod
    def decode(cls, data: bytes | None, now: float, wall_s: float) -> Ledger:
        """An empty one if there is no file; raises `LocalFault` for a damaged one."""
        if data is None:
            return cls()
        try:
            kept = _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise LocalFault(f"the record of what peers did is damaged: {error}") from error
        counted_s = now - max(0.0, wall_s - kept.saved_s)
        return cls(
            {
                each.subject: Record(
                    counted_s,
                    each.facets,
                    each.tally,
                    deque(each.happenings, maxlen=limits.EVIDENCE_PER_PEER_MAX),
                )
                for each in kept.records
            }
        )

    def _new(self, now: float) -> Record:
        # A peer is a member, so this only happens when members have come and gone by the hundred. The one that was not
        # seen for longest goes first, but nobody shakes off a bad record by being quiet while there are others.
        if len(self._records) >= limits.MEMBERS_MAX:
            clean = (peer for peer, record in self._records.items() if not any(e.bad for e in record.facets))
            del self._records[next(clean, next(iter(self._records)))]
        return Record(now)
