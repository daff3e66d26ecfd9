"""Invites as a table: uses, expiry, what is stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.admission.invites import TTL_S_MAX, Invites, Verdict
from protocols import limits
from protocols.errors import LocalFault, UserError

SECRET, OTHER = b"s" * 16, b"o" * 16
NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("secret", "after_s", "verdicts"),
    [
        (SECRET, 0.0, [Verdict.ACCEPTED, Verdict.ACCEPTED, Verdict.SPENT, Verdict.SPENT]),
        (SECRET, 59.0, [Verdict.ACCEPTED]),
        (SECRET, 60.0, [Verdict.EXPIRED]),
        (SECRET, 1e6, [Verdict.EXPIRED]),
        (OTHER, 0.0, [Verdict.UNKNOWN]),
        (SECRET + b"s", 0.0, [Verdict.UNKNOWN]),
        (b"", 0.0, [Verdict.UNKNOWN]),
    ],
)
def test_a_secret_is_good_for_its_uses_until_it_expires(
    secret: bytes, after_s: float, verdicts: list[Verdict]
) -> None:
    invites = Invites()
    assert invites.make(SECRET, 2, 60.0, NOW_S) == NOW_S + 60
    assert [invites.redeem(secret, NOW_S + after_s) for _ in verdicts] == verdicts


def test_what_is_stored_counts_on_and_holds_no_secret() -> None:
    invites = Invites()
    invites.make(SECRET, 2, 60.0, NOW_S)
    invites.redeem(SECRET, NOW_S)
    stored = invites.encode()
    assert SECRET not in stored
    again = Invites.decode(stored)
    assert [again.redeem(SECRET, NOW_S) for _ in range(2)] == [Verdict.ACCEPTED, Verdict.SPENT]


def test_no_file_means_no_invites_and_a_damaged_one_is_said_so() -> None:
    assert Invites.decode(None).redeem(SECRET, NOW_S) is Verdict.UNKNOWN
    with pytest.raises(LocalFault, match="invites is damaged"):
        Invites.decode(b"\xc1")


@pytest.mark.parametrize("uses", [0, -1, limits.INVITE_USES_MAX + 1])
def test_senseless_uses_are_refused(uses: int) -> None:
    with pytest.raises(UserError, match="--uses"):
        Invites().make(SECRET, uses, 60.0, NOW_S)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), float("inf"), TTL_S_MAX * 2.0])
def test_senseless_times_to_live_are_refused(ttl_s: float) -> None:
    with pytest.raises(UserError, match="time to live"):
        Invites().make(SECRET, 1, ttl_s, NOW_S)


def test_the_table_is_bounded_and_makes_room_by_dropping_what_is_spent_or_expired() -> None:
    invites = Invites()
    secrets = [number.to_bytes(16, "big") for number in range(limits.INVITES_MAX + 2)]
    for secret in secrets[: limits.INVITES_MAX]:
        invites.make(secret, 1, 60.0, NOW_S)
    with pytest.raises(UserError, match="outstanding"):
        invites.make(secrets[-2], 1, 60.0, NOW_S)
    invites.redeem(secrets[0], NOW_S)
    invites.make(secrets[-2], 1, 120.0, NOW_S)
    with pytest.raises(UserError, match="outstanding"):
        invites.make(secrets[-1], 1, 60.0, NOW_S)
    invites.make(secrets[-1], 1, 60.0, NOW_S + 61)
    assert invites.redeem(secrets[-2], NOW_S + 61) is Verdict.ACCEPTED


def test_strangers_are_welcome_until_the_last_expiry() -> None:
    invites = Invites()
    assert invites.open_until_s(NOW_S) < NOW_S
    invites.make(SECRET, 1, 60.0, NOW_S)
    invites.make(OTHER, 1, 90.0, NOW_S)
    assert invites.open_until_s(NOW_S) == NOW_S + 90
    assert invites.open_until_s(NOW_S + 90) < NOW_S


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 200)), max_size=60),
    st.lists(st.tuples(st.integers(1, 5), st.floats(1, 150)), min_size=1, max_size=5),
)
def test_no_invite_is_ever_used_more_often_or_later_than_it_says(
    attempts: list[tuple[int, float]], made: list[tuple[int, float]]
) -> None:
    invites, accepted = Invites(), [0] * 5
    for number, (uses, ttl_s) in enumerate(made):
        invites.make(bytes([number]) * 16, uses, ttl_s, 0.0)
    for number, at_s in attempts:
        if invites.redeem(bytes([number]) * 16, at_s) is Verdict.ACCEPTED:
            accepted[number] += 1
            assert at_s <= made[number][1] + 1
    for number, (uses, _) in enumerate(made):
        assert accepted[number] <= uses
