"""Node records: when one's own is made anew, and which of others' are believed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from mesh.admission.identity import peer_of
from mesh.admission.signatures import sign_statement
from mesh.directory.records import OwnRecord, Particulars, RecordJudge, contact_of
from protocols import limits
from protocols.errors import Dishonest, Malformed, Premature, Stale, Unauthenticated
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.records import (
    RECORD_DOMAIN,
    Capabilities,
    NodeRecord,
    SignedRecord,
    decode_record,
    encode_record,
)

NOW_S = 1_800_000_000.0
NETWORK, OTHER_NETWORK = NetworkId("ab" * 16), NetworkId("cd" * 16)
HOUR_S, DAY_S, SKEW_S = 3600.0, limits.RECORD_TTL_S, limits.CLOCK_SKEW_S
SAID = Particulars(("/ip4/10.0.0.1/tcp/4001",), ("/ip4/10.0.0.1/tcp/4002",), (b"\x11" * 32,), "ada")


class Key:
    """A signer that needs no disk."""

    def __init__(self, number: int) -> None:
        self._key = SigningKey(bytes([number]) * 32)
        self.peer: PeerId = peer_of(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message).signature


ADA, MALLORY = Key(1), Key(2)


def accept_chain(chain: bytes, network: NetworkId, peer: PeerId, now_s: float) -> None:
    """The chain of these tests is the peer id."""
    if chain not in (b"", peer.encode()):
        raise Unauthenticated("not a member", peer)


JUDGE = RecordJudge(NETWORK, accept_chain)


def record(**changes: object) -> NodeRecord:
    made = OwnRecord(ADA, NETWORK).renew(SAID, NOW_S)
    assert made is not None
    return msgspec.structs.replace(decode_record(made.record), **changes)


def signed(body: NodeRecord, by: Key = ADA, domain: str = RECORD_DOMAIN) -> SignedRecord:
    encoded = encode_record(body)
    return SignedRecord(encoded, sign_statement(by, domain, encoded))


# One's own ---------------------------------------------------------------------------------------------------------------


def test_a_fresh_record_is_accepted_and_says_what_was_to_be_said() -> None:
    made = OwnRecord(ADA, NETWORK).renew(SAID, NOW_S)
    assert made is not None
    judged = JUDGE.judge(made, NOW_S)
    assert contact_of(judged) == Contact(
        ADA.peer, SAID.statics[0], SAID.control, SAID.data, int(NOW_S * 1e3), "ada"
    )
    assert judged.expires_s - judged.issued_s == DAY_S


def test_a_record_is_renewed_at_half_of_its_life_and_not_before() -> None:
    own = OwnRecord(ADA, NETWORK)
    assert own.renew(SAID, NOW_S)
    assert own.renew(SAID, NOW_S + DAY_S / 2 - 1) is None
    assert own.renew(SAID, NOW_S + DAY_S / 2)
    assert own.due_s == NOW_S + DAY_S


@pytest.mark.parametrize(
    "changed",
    [
        {"control": ("/ip4/10.0.0.9/tcp/4001",)},
        {"data": ()},
        {"statics": (b"\x22" * 32, b"\x11" * 32)},
        {"labels": ("zone=eu",)},
        {"capabilities": Capabilities(cores=4)},
        {"chain": b"renewed"},
        {"name": "eve"},
    ],
)
def test_a_record_is_renewed_when_anything_in_it_changes(changed: dict[str, object]) -> None:
    own = OwnRecord(ADA, NETWORK)
    first = own.renew(SAID, NOW_S)
    named = {slot: getattr(SAID, slot) for slot in SAID.__slots__}
    second = own.renew(Particulars(**(named | changed)), NOW_S)
    assert first is not None
    assert second is not None
    assert decode_record(second.record).sequence > decode_record(first.record).sequence


@given(st.lists(st.floats(-2 * DAY_S, 2 * DAY_S), max_size=12), st.integers(0, 1 << 60))
def test_the_sequence_rises_whatever_the_clock_does_and_each_record_is_accepted(
    steps: list[float], last: int
) -> None:
    own, now_s, before = OwnRecord(ADA, NETWORK, last), NOW_S, last
    for step in [0.0, *steps]:
        now_s += step
        if (made := own.renew(SAID, now_s)) is not None:
            sequence = JUDGE.judge(made, now_s).sequence
            assert sequence > before
            before = sequence
        assert own.due_s > now_s
        assert own.due_s <= now_s + SKEW_S + DAY_S / 2, "a record from the future would be refused"


def test_a_name_that_others_would_refuse_does_not_get_out() -> None:
    with pytest.raises(Malformed):
        OwnRecord(ADA, NETWORK).renew(Particulars(SAID.control, SAID.data, SAID.statics, "\x1b"), NOW_S)


# Others' -----------------------------------------------------------------------------------------------------------------


def test_a_record_counts_while_it_lasts_give_or_take_what_clocks_may_differ_by() -> None:
    body = signed(record())
    for now_s in (NOW_S - SKEW_S, NOW_S, NOW_S + DAY_S + SKEW_S):
        JUDGE.judge(body, now_s)
    with pytest.raises(Premature, match="dated 601 s ahead; clocks may differ by 600 s"):
        JUDGE.judge(body, NOW_S - SKEW_S - 1)
    with pytest.raises(Stale, match="expired 601 s ago"):
        JUDGE.judge(body, NOW_S + DAY_S + SKEW_S + 1)


@pytest.mark.parametrize("lasts_s", [DAY_S + 1, 0, -1])
def test_a_record_that_wants_to_last_longer_than_a_day_or_no_time_is_dishonest(lasts_s: float) -> None:
    with pytest.raises(Dishonest, match="wants to last"):
        JUDGE.judge(signed(record(expires_s=int(NOW_S + lasts_s))), NOW_S)


def test_a_replayed_older_record_is_stale_and_the_same_one_again_is_not() -> None:
    body = signed(record(sequence=7))
    assert JUDGE.judge(body, NOW_S, known_sequence=7).sequence == 7
    with pytest.raises(Stale, match="sequence 7; 8 is known"):
        JUDGE.judge(body, NOW_S, known_sequence=8)


def test_what_another_signed_is_refused_whoever_hands_it_over() -> None:
    with pytest.raises(Unauthenticated, match="did not sign"):
        JUDGE.judge(signed(record(), by=MALLORY), NOW_S)
    with pytest.raises(Unauthenticated, match="did not sign"):
        JUDGE.judge(signed(record(), domain="weft-other-1"), NOW_S)
    with pytest.raises(Dishonest, match="in another's name"):
        JUDGE.judge(signed(record()), NOW_S, author=MALLORY.peer)
    assert JUDGE.judge(signed(record()), NOW_S, author=ADA.peer).peer == ADA.peer


@given(st.integers(0, len(encode_record(record())) - 1), st.integers(1, 255))
def test_no_changed_byte_gets_through(at: int, change: int) -> None:
    body = signed(record())
    changed = bytearray(body.record)
    changed[at] ^= change
    with pytest.raises((Malformed, Unauthenticated, Dishonest, Premature, Stale)):
        JUDGE.judge(SignedRecord(bytes(changed), body.signature), NOW_S)


def test_a_record_for_another_network_or_without_membership_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="for network"):
        JUDGE.judge(signed(record(network=OTHER_NETWORK)), NOW_S)
    with pytest.raises(Unauthenticated, match="not a member"):
        JUDGE.judge(signed(record(chain=b"of somebody else")), NOW_S)
    assert JUDGE.judge(signed(record(chain=ADA.peer.encode())), NOW_S)


def test_a_flood_of_old_records_costs_no_signature_checks() -> None:
    unsigned = SignedRecord(encode_record(record(sequence=7)), b"\0" * 64)
    with pytest.raises(Stale):
        JUDGE.judge(unsigned, NOW_S, known_sequence=8)
