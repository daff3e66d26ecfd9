"""Node records: making one's own anew in time, and judging those of others.

The rule of the file: pure. One's own sequence is the wall clock in ms and never lower than before, so that it rises across
restarts and when the clock was set back. Others' records count while they last, give or take what clocks may differ by.

    nothing --first particulars--> current --half of its life, other particulars, or the clock set back--> the next
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mesh.admission.signatures import IsStatement, Signer, is_statement_of, sign_statement
from protocols import limits
from protocols.errors import Dishonest, Premature, Stale, Unauthenticated
from protocols.ids import NetworkId, PeerId, shortened
from protocols.membership import Contact
from protocols.records import (
    RECORD_DOMAIN,
    Capabilities,
    NodeRecord,
    SignedRecord,
    decode_record,
    encode_record,
)

VerifyChain = Callable[[bytes, NetworkId, PeerId, float], object]
"""Raises `Unauthenticated` unless the encoded chain makes that peer a member of that network at that wall-clock time. What it
gives back is not looked at."""

RENEW_AFTER_S: Final = limits.RECORD_TTL_S / 2


@dataclass(frozen=True, slots=True)
class Particulars:
    """What a node says of itself, but for the dates."""

    control: tuple[str, ...]
    data: tuple[str, ...]
    statics: tuple[bytes, ...]
    name: str = ""
    labels: tuple[str, ...] = ()
    capabilities: Capabilities = field(default_factory=Capabilities)
    chain: bytes = b""


class OwnRecord:
    """The record of one node, as its only author. `last_sequence` is the highest that it may ever have used."""

    def __init__(self, signer: Signer, network: NetworkId, last_sequence: int = 0) -> None:
        self._signer = signer
        self._network = network
        self._sequence = last_sequence
        self._said: Particulars | None = None
        self._issued_s = -math.inf

    @property
    def due_s(self) -> float:
        """The wall-clock time when it wants to be renewed whatever happens."""
        return self._issued_s + RENEW_AFTER_S

    def renew(self, particulars: Particulars, now_s: float) -> SignedRecord | None:
        """A new record if one is due; the caller stores its sequence before anybody else sees it."""
        # A clock that was set back would leave a record which the others refuse as from the future.
        is_current = self._issued_s - limits.CLOCK_SKEW_S <= now_s < self.due_s
        if particulars == self._said and is_current:
            return None
        self._sequence = max(self._sequence + 1, int(now_s * 1e3))
        self._said, self._issued_s = particulars, now_s
        body = encode_record(self._record(particulars, int(now_s)))
        decode_record(body)  # what the others would refuse must not get out: that would be a bug of this node
        return SignedRecord(body, sign_statement(self._signer, RECORD_DOMAIN, body))

    def _record(self, particulars: Particulars, issued_s: int) -> NodeRecord:
        return NodeRecord(
            peer=self._signer.peer,
            network=self._network,
            sequence=self._sequence,
            issued_s=issued_s,
            expires_s=issued_s + int(limits.RECORD_TTL_S),
            control=particulars.control,
            data=particulars.data,
            statics=particulars.statics,
            name=particulars.name,
            labels=particulars.labels,
            capabilities=particulars.capabilities,
            chain=particulars.chain,
        )


@dataclass(frozen=True, slots=True)
class RecordJudge:
    """What makes another's record acceptable in one network."""

    network: NetworkId
    verify_chain: VerifyChain
    is_statement: IsStatement = is_statement_of

    def judge(
        self, signed: SignedRecord, now_s: float, known_sequence: int = 0, author: PeerId | None = None
    ) -> NodeRecord:
        """The record, if it is true, in time and not older than the known one.

        `author`, if given, is who has to have made it. Raises `Malformed` or `Oversized` for what is no record, `Dishonest` for
        another author's, `Unauthenticated` for a wrong signature, network or chain, `Stale`, and `Premature`.
        """
        record = decode_record(signed.record)
        peer = record.peer
        if author not in (None, peer):
            raise Dishonest(f"a node record of {shortened(peer)} in another's name", author)
        if record.network != self.network:
            raise Unauthenticated(f"a node record for network {shortened(record.network)}", peer)
        _check_times(record, now_s)
        if record.sequence < known_sequence:
            raise Stale(f"a node record with sequence {record.sequence}; {known_sequence} is known", peer)
        # The costly checks come last, so that a flood of old records costs little.
        if not self.is_statement(peer, RECORD_DOMAIN, signed.record, signed.signature):
            raise Unauthenticated(f"a node record that {shortened(peer)} did not sign", peer)
        self.verify_chain(record.chain, self.network, peer, now_s)
        return record


def _check_times(record: NodeRecord, now_s: float) -> None:
    peer = record.peer
    if not 0 < record.expires_s - record.issued_s <= limits.RECORD_TTL_S:
        raise Dishonest(f"a node record that wants to last {record.expires_s - record.issued_s} s", peer)
    ahead_s = record.issued_s - now_s
    if ahead_s > limits.CLOCK_SKEW_S:
        raise Premature(
            f"a node record dated {ahead_s:.0f} s ahead; clocks may differ by {limits.CLOCK_SKEW_S:.0f} s",
            peer,
        )
    late_s = now_s - record.expires_s
    if late_s > limits.CLOCK_SKEW_S:
        raise Stale(f"a node record that expired {late_s:.0f} s ago", peer)


def contact_of(record: NodeRecord) -> Contact:
    """How to dial who made it, with its newest static."""
    return Contact(record.peer, record.statics[0], record.control, record.data, record.sequence, record.name)
