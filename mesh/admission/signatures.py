"""Statements that a peer signed with its identity: checked from the peer id alone, which carries the whole key.

The signed bytes begin with the domain of the statement, so that what was signed as one thing can never be shown as another.
Checking is by libsodium, in less than half the time of OpenSSL's, because every node checks what all the others sign.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Protocol

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from mesh.admission.identity import public_key_of
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import PeerId

SIGNATURE_BYTES: Final = 64


IsStatement = Callable[[PeerId, str, bytes, bytes], bool]
"""As `is_statement_of`."""


class Signer(Protocol):
    """Whoever holds the key of `peer`, such as `mesh.admission.identity.Identity`."""

    @property
    def peer(self) -> PeerId: ...
    def sign(self, message: bytes) -> bytes: ...


def sign_statement(signer: Signer, domain: str, body: bytes) -> bytes:
    """64 bytes."""
    return signer.sign(_statement(domain, body))


def is_statement_of(peer: PeerId, domain: str, body: bytes, signature: bytes) -> bool:
    """Whether `peer` signed `body` as a statement of that domain; False as well for what is no peer id."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        _key_of(peer).verify(_statement(domain, body), signature)
    except (BadSignatureError, Malformed):
        return False
    return True


def _statement(domain: str, body: bytes) -> bytes:
    return domain.encode() + b"\0" + body


@lru_cache(maxsize=limits.MEMBERS_MAX)
def _key_of(peer: PeerId) -> VerifyKey:
    return VerifyKey(public_key_of(peer))
