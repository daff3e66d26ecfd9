"""Lists of revocations: whose word counts, and how much of it is kept."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mesh.admission.revocations import RevocationTable
from mesh.admission.signatures import sign_statement
from protocols import limits
from protocols.certificates import REVOCATIONS_DOMAIN, Chain, Revocations, Right
from protocols.errors import LocalFault, Overloaded, Refused, Unauthenticated
from protocols.ids import PeerId
from tests.mesh.admission.papers import ADA, BOB, BOBS, CAT, CATS, DAN, NETWORK, NOW_S, ROOT, below, identity


def revoked_by(issuer, chain: Chain, *peers: PeerId) -> Revocations:
    table = RevocationTable()
    for peer in peers:
        table.revoke(issuer, chain, peer, NOW_S)
    made = table.of(issuer.peer)
    assert made is not None
    return made


def test_a_list_counts_for_those_below_its_issuer() -> None:
    table = RevocationTable()
    assert table.take(revoked_by(BOB, BOBS, CAT.peer), NETWORK, NOW_S)
    assert table.is_revoked(CAT.peer, (BOB.peer, ADA.peer))
    assert not table.is_revoked(CAT.peer, (DAN.peer, ADA.peer))
    assert not table.is_revoked(DAN.peer, (BOB.peer,))


def test_the_higher_number_counts_and_an_older_list_that_is_told_again_changes_nothing() -> None:
    table = RevocationTable()
    old, new = revoked_by(ADA, ROOT, BOB.peer), revoked_by(ADA, ROOT, BOB.peer, CAT.peer)
    assert [table.take(each, NETWORK, NOW_S) for each in (old, new, old, new)] == [True, True, False, False]
    assert table.is_revoked(CAT.peer, (ADA.peer,))


def signed(issuer, made: Revocations, /, **changes: object) -> Revocations:
    changed = replace(made, **changes)
    return replace(changed, signature=sign_statement(issuer, REVOCATIONS_DOMAIN, changed.signed()))


GOOD = revoked_by(BOB, BOBS, CAT.peer)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (replace(GOOD, number=9), "did not sign"),
        (replace(GOOD, revoked=(ADA.peer,)), "did not sign"),
        (signed(DAN, GOOD), "did not sign"),
        (signed(CAT, GOOD, issuer=CAT.peer), "certificate of another node"),
        (signed(BOB, GOOD, chain=()), "no certificate"),
        (revoked_by(CAT, below(ROOT, ADA, CAT, Right(0)), BOB.peer), "may not sponsor"),
    ],
)
def test_what_its_issuer_did_not_sign_or_may_not_is_refused(told: Revocations, why: str) -> None:
    table = RevocationTable()
    with pytest.raises(Unauthenticated, match=why):
        table.take(told, NETWORK, NOW_S)
    assert not tuple(table)


def test_who_was_revoked_revokes_nobody() -> None:
    table = RevocationTable()
    table.revoke(ADA, ROOT, BOB.peer, NOW_S)
    with pytest.raises(Unauthenticated, match="was revoked"):
        table.take(GOOD, NETWORK, NOW_S)


def test_a_list_is_kept_and_signed_again_under_a_new_chain() -> None:
    table = RevocationTable()
    assert table.revoke(BOB, BOBS, CAT.peer, NOW_S)
    assert not table.revoke(BOB, BOBS, CAT.peer, NOW_S)
    newer = below(ROOT, ADA, BOB, Right.SPONSOR, NOW_S + 9)
    table.renew(BOB, newer, NOW_S + 9)
    again = RevocationTable.decode(table.encode())
    (kept,) = again
    assert (kept.number, kept.chain, kept.revoked) == (2, newer, (CAT.peer,))
    assert RevocationTable().take(kept, NETWORK, NOW_S + 9)
    assert again.is_revoked(CAT.peer, (BOB.peer,))


def test_a_damaged_file_is_said_so_and_no_file_is_an_empty_table() -> None:
    assert not tuple(RevocationTable.decode(None))
    with pytest.raises(LocalFault, match=r"revocations\.msgpack is damaged"):
        RevocationTable.decode(b"\xc1")


def test_lists_are_bounded_and_invented_issuers_do_not_push_out_those_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "REVOKERS_MAX", 3)
    table = RevocationTable()
    for number in range(10, 13):
        sponsor = identity(number)
        table.take(revoked_by(sponsor, below(CATS, CAT, sponsor), DAN.peer), NETWORK, NOW_S)
    another = identity(13)
    with pytest.raises(Overloaded):
        table.take(revoked_by(another, below(CATS, CAT, another), DAN.peer), NETWORK, NOW_S)
    assert table.take(revoked_by(ADA, ROOT, CAT.peer), NETWORK, NOW_S)
    assert len(tuple(table)) == 3
    assert table.is_revoked(CAT.peer, (ADA.peer,))


def test_a_full_list_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 1)
    table = RevocationTable()
    table.revoke(ADA, ROOT, BOB.peer, NOW_S)
    with pytest.raises(Refused, match="list is full"):
        table.revoke(ADA, ROOT, CAT.peer, NOW_S)
