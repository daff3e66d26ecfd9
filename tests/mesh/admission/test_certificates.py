"""Chains of certificates: who is believed, and what everybody else is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mesh.admission import certificates
from mesh.admission.certificates import check_may_sponsor, expires_s, found, verify_chain, verify_shown
from mesh.admission.identity import Identity
from protocols import limits
from protocols.certificates import Certificate, Chain, Right, encode_chain
from protocols.errors import Refused, Unauthenticated
from protocols.ids import PeerId
from simulations.machine.clock import SeededRandomness
from tests.mesh.admission.papers import (
    ADA,
    BOB,
    BOBS,
    CAT,
    CATS,
    DAN,
    EVE,
    FAY,
    NETWORK,
    NOW_S,
    ROOT,
    YEAR_S,
    below,
    signed,
)

FOREIGN = found(ADA, SeededRandomness(99), NOW_S)
EVES_OWN = found(EVE, SeededRandomness(5), NOW_S)


def nobody(peer: PeerId, sponsors: object) -> bool:
    return False


def refusal(
    chain: Chain, who: Identity, now_s: float = NOW_S, is_revoked: Callable[..., bool] = nobody
) -> str:
    with pytest.raises(Unauthenticated) as caught:
        verify_chain(chain, NETWORK, who.peer, now_s, is_revoked)
    assert caught.value.peer == who.peer
    return str(caught.value)


@pytest.mark.parametrize(("chain", "who"), [(ROOT, ADA), (BOBS, BOB), (CATS, CAT)])
def test_a_chain_up_to_the_founder_makes_a_member(chain: Chain, who: Identity) -> None:
    assert verify_chain(chain, NETWORK, who.peer, NOW_S, nobody) == chain[0]
    assert verify_shown(encode_chain(chain), NETWORK, who.peer, NOW_S, nobody) == chain


def unsigned(certificate: Certificate, **changes: object) -> Certificate:
    return replace(certificate, **changes)


@pytest.mark.parametrize(
    ("chain", "who", "told"),
    [
        ((), BOB, "showed no certificate: it needs a new invite"),
        (BOBS, EVE, "certificate of another node"),
        (below(FOREIGN, ADA, BOB), BOB, r"of network \w+ and this one is \w+: start a second node"),
        ((unsigned(BOBS[0], expires_s=BOBS[0].expires_s + 1), *ROOT), BOB, "forged"),
        ((unsigned(BOBS[0], signature=bytes(64)), *ROOT), BOB, "forged"),
        ((BOBS[0], unsigned(ROOT[0], signature=BOBS[0].signature)), BOB, "forged"),
        ((signed(EVE, BOBS[0]), *ROOT), BOB, "forged"),
        ((signed(EVE, EVES_OWN[0], network=NETWORK),), EVE, "did not found this network"),
        ((signed(BOB, BOBS[0], sponsor=BOB.peer),), BOB, "did not found this network"),
        ((BOBS[0],), BOB, "did not found this network"),
        ((signed(EVE, BOBS[0], sponsor=EVE.peer), *ROOT), BOB, "does not hang together"),
        ((CATS[0], *ROOT), CAT, "does not hang together"),
        ((BOBS[0], unsigned(FOREIGN[0])), BOB, "does not hang together"),
        (
            (signed(BOB, CATS[0]), signed(ADA, BOBS[0], rights=0), *ROOT),
            CAT,
            "had no right to sponsor it",
        ),
        ((signed(ADA, BOBS[0], rights=3), *ROOT), BOB, "rights that its sponsor lacks"),
        ((*CATS[:1], *BOBS[:1] * 4, *ROOT), CAT, "6 certificates, 5 are allowed"),
    ],
)
def test_any_other_chain_is_refused_in_one_sentence(chain: Chain, who: Identity, told: str) -> None:
    sentence = refusal(chain, who)
    assert "\n" not in sentence
    with pytest.raises(Unauthenticated, match=told):
        verify_chain(chain, NETWORK, who.peer, NOW_S, nobody)


@pytest.mark.parametrize(
    ("now_s", "told"),
    [
        (NOW_S - limits.CLOCK_SKEW_S, None),
        (NOW_S - limits.CLOCK_SKEW_S - 1, "its clock is 10 min ahead of this one"),
        (NOW_S - 42 * 60, "its clock is 42 min ahead of this one"),
        (NOW_S - 3 * 3600, "its clock is 3 h ahead of this one"),
        (NOW_S + YEAR_S + limits.CLOCK_SKEW_S, None),
        (NOW_S + YEAR_S + limits.CLOCK_SKEW_S + 1, "its certificate ended 10 min ago"),
        (NOW_S + YEAR_S + 42 * 60, "its certificate ended 42 min ago by this clock"),
        (NOW_S + YEAR_S + 5 * 86_400, "its certificate ended 5 days ago"),
    ],
)
def test_clocks_may_differ_by_ten_minutes_and_a_refusal_names_the_difference(
    now_s: float, told: str | None
) -> None:
    if told is None:
        verify_chain(BOBS, NETWORK, BOB.peer, now_s, nobody)
    else:
        assert told in refusal(BOBS, BOB, now_s)


def test_a_sponsor_whose_certificate_ended_takes_those_below_with_it() -> None:
    long = (signed(BOB, CATS[0], expires_s=CATS[0].expires_s * 2), *CATS[1:])
    assert "the one of its sponsor" in refusal(long, CAT, NOW_S + YEAR_S + 3600)


@pytest.mark.parametrize(
    ("revoked", "by", "told"),
    [
        (CAT, BOB, "its membership was revoked: to come back it needs a new home"),
        (CAT, ADA, "its membership was revoked"),
        (BOB, ADA, "membership of its sponsor .* was revoked: it needs a new invite"),
        (CAT, EVE, None),
        (BOB, CAT, None),
        (ADA, BOB, None),
    ],
)
def test_whom_a_sponsor_up_the_chain_has_revoked_is_out_with_all_below(
    revoked: Identity, by: Identity, told: str | None
) -> None:
    def is_revoked(peer: PeerId, sponsors: tuple[PeerId, ...]) -> bool:
        return peer == revoked.peer and by.peer in sponsors

    if told is None:
        verify_chain(CATS, NETWORK, CAT.peer, NOW_S, is_revoked)
    else:
        with pytest.raises(Unauthenticated, match=told):
            verify_chain(CATS, NETWORK, CAT.peer, NOW_S, is_revoked)


def test_an_issued_certificate_has_no_more_rights_and_lasts_no_longer_than_those_above() -> None:
    late_s = NOW_S + YEAR_S / 2
    chain = below(BOBS, BOB, CAT, Right.SPONSOR, late_s)
    assert expires_s(chain) == expires_s(BOBS)
    powerless = below(ROOT, ADA, CAT, Right(0))
    assert not powerless[0].may_sponsor
    with pytest.raises(Refused, match="may not invite others"):
        below(powerless, CAT, DAN)
    assert expires_s(below(ROOT, ADA, CAT, Right.SPONSOR, late_s)) == late_s + YEAR_S


def test_a_chain_grows_to_its_limit_and_then_says_who_invites_instead() -> None:
    chain, sponsor = ROOT, ADA
    for peer in (BOB, CAT, DAN, EVE):
        check_may_sponsor(chain)
        chain, sponsor = below(chain, sponsor, peer), peer
        verify_chain(chain, NETWORK, peer.peer, NOW_S, nobody)
    assert len(chain) == limits.CHAIN_MAX
    with pytest.raises(Refused, match=f"4 invites away from the founder.*{DAN.peer[-8:]}"):
        below(chain, sponsor, FAY)


def test_a_node_without_a_chain_invites_nobody() -> None:
    with pytest.raises(Refused, match="may not invite"):
        check_may_sponsor(())


def test_signatures_are_checked_once_and_failures_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = certificates.is_statement_of

    def count(peer: PeerId, domain: str, body: bytes, signature: bytes) -> bool:
        asked.append(peer)
        return real(peer, domain, body, signature)

    monkeypatch.setattr(certificates, "is_statement_of", count)
    chain = below(BOBS, BOB, FAY)
    for _ in range(3):
        verify_chain(chain, NETWORK, FAY.peer, NOW_S, nobody)
    assert len(asked) == 3
    refused = (replace(chain[0], serial=bytes(16)), *chain[1:])
    kept = certificates._check_signatures.cache_info().currsize
    for _ in range(2):
        assert "forged" in refusal(refused, FAY)
    assert certificates._check_signatures.cache_info().currsize == kept


@given(
    st.integers(0, 2),
    st.sampled_from(["peer", "sponsor", "rights", "serial", "issued_s", "expires_s"]),
    st.data(),
)
def test_no_field_of_any_certificate_can_be_changed(at: int, field: str, data: st.DataObject) -> None:
    value = getattr(CATS[at], field)
    changed = data.draw(
        st.sampled_from([EVE.peer, FAY.peer])
        if isinstance(value, str)
        else st.binary(min_size=16, max_size=16)
        if isinstance(value, bytes)
        else st.integers(0, 1 << 31)
    )
    chain = tuple(replace(one, **{field: changed}) if depth == at else one for depth, one in enumerate(CATS))
    if changed == value:
        return
    with pytest.raises(Unauthenticated):
        verify_chain(chain, NETWORK, CAT.peer, NOW_S, nobody)


@given(st.binary(max_size=200))
def test_shown_garbage_is_refused(shown: bytes) -> None:
    with pytest.raises(Unauthenticated):
        verify_shown(shown, NETWORK, BOB.peer, NOW_S, nobody)
