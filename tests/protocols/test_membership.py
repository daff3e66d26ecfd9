"""Invites as text."""

from __future__ import annotations

import base64
from dataclasses import FrozenInstanceError

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits
from protocols.errors import Malformed, UserError
from protocols.ids import NetworkId, PeerId
from protocols.membership import INVITE_PREFIX, MEMBERS_CODEC, Contact, Invite, parse_invite
from tests.protocols.vectors import ADA, CONTACT, CONTACT_MEANS, NETWORK, SECRET

INVITE = Invite(NETWORK, CONTACT, SECRET, 3, 1_800_000_000)
TEXT = INVITE.to_text()

ADDRESSES = st.lists(st.text(max_size=256), max_size=limits.ADDRESSES_MAX).map(tuple)
CONTACTS = st.builds(
    Contact,
    peer=st.text("abcXYZ123", min_size=40, max_size=64).map(PeerId),
    static=st.binary(min_size=32, max_size=32),
    control=st.lists(st.text("/ip4tcp0123456789.", max_size=60), max_size=3).map(tuple),
    data=st.lists(st.text("/ip4tcp0123456789.", max_size=60), max_size=3).map(tuple),
    sequence=st.integers(0, (1 << 63) - 1),
    name=st.text(max_size=16),
)
INVITES = st.builds(
    Invite,
    network=st.text("0123456789abcdef", min_size=32, max_size=32).map(NetworkId),
    inviter=CONTACTS,
    secret=st.binary(min_size=16, max_size=16),
    uses=st.integers(1, limits.INVITE_USES_MAX),
    expires_s=st.integers(0, 1 << 40),
)


@given(INVITES, st.sampled_from(["", " ", "\n", "\t \r\n"]))
def test_an_invite_survives_copying_and_the_space_around_it(invite: Invite, space: str) -> None:
    text = invite.to_text()
    assert text.isascii()
    assert not any(character.isspace() or character in "'\"\\$&|;<>=+/" for character in text)
    assert parse_invite(space + text + space) == invite


def test_an_invite_is_what_it_says_to_an_independent_reader() -> None:
    encoded = TEXT.removeprefix(INVITE_PREFIX)
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    assert msgpack.unpackb(raw) == [NETWORK, CONTACT_MEANS, SECRET, 3, 1_800_000_000]


@pytest.mark.parametrize(
    "text", ["", "hello", "weft2.abc", "weft1", TEXT.removeprefix("weft1."), "https://x/y"]
)
def test_what_is_no_invite_is_said_with_the_command_that_makes_one(text: str) -> None:
    with pytest.raises(UserError, match=r"no invite.*'weft invite'"):
        parse_invite(text)


def test_something_far_too_long_is_no_invite() -> None:
    with pytest.raises(UserError, match="no invite"):
        parse_invite(INVITE_PREFIX + "A" * limits.JOIN_BYTES_MAX)


def test_an_invite_that_was_cut_short_anywhere_is_damaged() -> None:
    for length in range(len(INVITE_PREFIX), len(TEXT)):
        with pytest.raises(UserError, match="copy the whole string"):
            parse_invite(TEXT[:length])


@given(st.integers(len(INVITE_PREFIX), len(TEXT) - 1), st.characters())
def test_a_changed_character_gives_an_invite_or_one_line_of_advice(at: int, character: str) -> None:
    advice = ""
    try:
        parse_invite(TEXT[:at] + character + TEXT[at + 1 :])
    except UserError as error:
        advice = str(error)
    assert "\n" not in advice


@given(st.text(max_size=300))
def test_no_text_does_worse_than_a_line_of_advice(text: str) -> None:
    for attempt in (text, INVITE_PREFIX + text):
        with pytest.raises(UserError) as caught:
            parse_invite(attempt)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "peer", ["", "a" * 39, "a" * 65, "0" * 44, "l" * 44, "../" + "a" * 41, "a" * 43 + "\n"]
)
def test_what_is_no_peer_id_is_malformed(peer: str) -> None:
    with pytest.raises(Malformed):
        MEMBERS_CODEC.decode(msgpack.packb(["announce", [peer, *CONTACT_MEANS[1:]]]))


def test_a_contact_can_not_be_changed() -> None:
    with pytest.raises((AttributeError, FrozenInstanceError)):
        CONTACT.peer = ADA  # type: ignore[misc]
