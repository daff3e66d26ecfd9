"""The answer to a join fits the frame that a stranger may be sent."""

from __future__ import annotations

import pytest

from mesh.admission.invites import Verdict
from mesh.admission.joining import REASONS, accept
from protocols import limits
from protocols.frame import PREFIX
from protocols.ids import PeerId
from protocols.membership import JOIN_CODEC, Contact
from tests.mesh.members.people import ONE, THREE, TWO, contact


def test_a_small_network_is_told_whole_with_the_inviter_first() -> None:
    others = [contact(TWO), contact(THREE)]
    assert accept(contact(ONE), others, b"").members == (contact(ONE), *others)


@pytest.mark.parametrize("name_length", [0, 33, 64])
def test_of_a_large_one_as_many_as_fit_beside_the_longest_chain(name_length: int) -> None:
    others = [
        Contact(PeerId(f"12D3KooW{number:044}"), bytes(32), ("/a",), ("/b",), 1, "n" * name_length)
        for number in range(limits.MEMBERS_MAX - 1)
    ]
    answer = accept(contact(ONE), others, bytes(limits.CHAIN_BYTES_MAX))
    size = PREFIX.size + len(JOIN_CODEC.encode(answer))
    assert answer.members[0] == contact(ONE)
    assert answer.members[1:] == tuple(others[: len(answer.members) - 1])
    assert limits.JOIN_BYTES_MAX * 0.9 < size <= limits.JOIN_BYTES_MAX


def test_every_refusal_is_a_sentence_that_names_the_next_step() -> None:
    refusals = {verdict.value for verdict in Verdict if verdict is not Verdict.ACCEPTED} | {
        "full",
        "revoked",
        "powerless",
    }
    assert set(REASONS) == refusals
    assert all(text.endswith(".") and "\n" not in text and ": " in text for text in REASONS.values())
