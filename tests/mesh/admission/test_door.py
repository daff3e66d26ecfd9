"""The door: what is shown, what is remembered, and who is a stranger."""

from __future__ import annotations

import pytest

from mesh.admission.door import CertificateDoor
from mesh.admission.revocations import RevocationTable
from protocols import limits
from protocols.certificates import encode_chain
from protocols.errors import Unauthenticated
from protocols.ids import PeerId
from tests.mesh.admission.papers import (
    ADA,
    BOB,
    BOBS,
    CAT,
    CATS,
    NETWORK,
    NOW_S,
    ROOT,
    YEAR_S,
    below,
    identity,
)


class StillClock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def table() -> RevocationTable:
    return RevocationTable()


@pytest.fixture
def door(clock: StillClock, table: RevocationTable) -> CertificateDoor:
    return CertificateDoor(NETWORK, ROOT, clock, table)


def is_refused(door: CertificateDoor, peer: PeerId, shown: bytes) -> bool:
    try:
        door.judge(peer, shown)
    except Unauthenticated:
        return True
    return False


def test_a_good_chain_makes_a_member_and_nothing_a_stranger_while_they_are_welcome(
    door: CertificateDoor,
) -> None:
    assert door.judge(BOB.peer, encode_chain(BOBS))
    assert is_refused(door, CAT.peer, b"")
    door.welcomes_strangers = True
    assert door.judge(CAT.peer, b"") is False


def test_a_bad_chain_is_refused_even_while_strangers_are_welcome(door: CertificateDoor) -> None:
    door.welcomes_strangers = True
    for shown in (b"garbage", encode_chain(BOBS), encode_chain(CATS[:1])):
        assert is_refused(door, CAT.peer, shown)


def test_who_was_let_in_is_a_member_without_showing_anything_until_it_is_revoked(
    door: CertificateDoor, table: RevocationTable
) -> None:
    door.know(BOB.peer, encode_chain(BOBS))
    assert door.judge(BOB.peer, b"")
    table.revoke(ADA, ROOT, BOB.peer, NOW_S)
    assert door.banned() == {BOB.peer}
    with pytest.raises(Unauthenticated, match="was revoked"):
        door.judge(BOB.peer, b"")
    assert is_refused(door, BOB.peer, encode_chain(BOBS))


def test_a_connection_outlives_the_chain_that_it_showed_if_there_is_a_newer_one(
    door: CertificateDoor, clock: StillClock
) -> None:
    shown = encode_chain(BOBS)
    assert door.judge(BOB.peer, shown)
    clock.now_s = NOW_S + YEAR_S / 2
    door.know(BOB.peer, encode_chain(below(ROOT, ADA, BOB, now_s=clock.now_s)))
    clock.now_s = NOW_S + YEAR_S + 3600
    assert door.judge(BOB.peer, shown)
    clock.now_s = NOW_S + 2 * YEAR_S
    assert is_refused(door, BOB.peer, shown)


def test_an_older_chain_does_not_replace_a_longer_one(door: CertificateDoor, clock: StillClock) -> None:
    clock.now_s = NOW_S + 86_400
    longer = below(ROOT, ADA, BOB, now_s=clock.now_s)
    door.know(BOB.peer, encode_chain(longer))
    door.know(BOB.peer, encode_chain(BOBS))
    assert door.chain_of(BOB.peer) == longer


def test_who_stands_below_a_sponsor_is_known(door: CertificateDoor) -> None:
    door.know(BOB.peer, encode_chain(BOBS))
    door.know(CAT.peer, encode_chain(CATS))
    assert door.below(BOB.peer) == (CAT.peer,)
    assert set(door.below(ADA.peer)) == {BOB.peer, CAT.peer}


def test_a_full_network_refuses_newcomers_and_keeps_its_members(
    door: CertificateDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 3)
    first, *others = [identity(number) for number in range(10, 16)]
    for number, peer in enumerate((first, *others)):
        shown = encode_chain(below(ROOT, ADA, peer))
        if number < 3:
            assert door.judge(peer.peer, shown)
        else:
            with pytest.raises(Unauthenticated, match="no room for more"):
                door.judge(peer.peer, shown)
    assert door.judge(first.peer, encode_chain(below(ROOT, ADA, first))), "it is a member, and may come again"
    assert door.chain_of(first.peer) is not None
    assert len(door._chains) == 3


def test_who_is_a_member_no_longer_makes_room(
    door: CertificateDoor, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 3)
    for number in range(10, 13):
        peer = identity(number)
        door.know(peer.peer, encode_chain(below(ROOT, ADA, peer)))
    clock.now_s += 2 * YEAR_S
    late = identity(13)
    door.know(late.peer, encode_chain(below(ROOT, ADA, late, now_s=clock.now_s)))
    assert list(door._chains) == [late.peer]
