from __future__ import annotations

import pytest

from mesh.admission.identity import Identity, identity_from_keys
from mesh.admission.signatures import is_statement_of, sign_statement
from protocols.ids import PeerId

DOMAIN = "weft-test-1"


def identity(number: int) -> Identity:
    return identity_from_keys(bytes([number]) * 32, bytes([number + 100]) * 32)


def test_a_statement_is_its_signers_and_nobody_elses() -> None:
    signature = sign_statement(identity(1), DOMAIN, b"body")
    assert is_statement_of(identity(1).peer, DOMAIN, b"body", signature)
    assert not is_statement_of(identity(2).peer, DOMAIN, b"body", signature)


@pytest.mark.parametrize(
    ("domain", "body"), [(DOMAIN, b"bodz"), ("weft-test-2", b"body"), (DOMAIN + "\0bo", b"dy"), (DOMAIN, b"")]
)
def test_what_was_signed_as_one_thing_is_no_other(domain: str, body: bytes) -> None:
    signature = sign_statement(identity(1), DOMAIN, b"body")
    assert not is_statement_of(identity(1).peer, domain, body, signature)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_bytes_that_are_no_signature_are_refused_without_an_exception(signature: bytes) -> None:
    assert not is_statement_of(identity(1).peer, DOMAIN, b"body", signature)


def test_what_is_no_peer_id_has_signed_nothing() -> None:
    signature = sign_statement(identity(1), DOMAIN, b"body")
    assert not is_statement_of(PeerId("no peer"), DOMAIN, b"body", signature)
    assert not is_statement_of(PeerId("1" * 52), DOMAIN, b"body", signature)
