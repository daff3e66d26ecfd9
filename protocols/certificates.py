"""Membership on paper: certificates, chains of them, and lists of those who lost it.

The network id commits to its founder: the first 32 hex digits of sha256("weft-network-1" || the founder's peer id || 16
bytes drawn by it). The founder's own certificate carries those bytes as its serial, so whoever knows the network id can
check every member's chain without asking anybody:

    leaf ... <-sponsor- certificate <-sponsor- root (the founder's, signed by itself)

The signature covers all other fields, encoded as MessagePack in the shortest form, as a statement of its domain
(mesh/admission/signatures.py).
"""

from __future__ import annotations

import hashlib
from enum import IntFlag
from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.errors import Malformed
from protocols.ids import NetworkId, PeerId
from protocols.membership import PeerIdText

CERTIFICATE_DOMAIN: Final = "weft-certificate-1"
REVOCATIONS_DOMAIN: Final = "weft-revocations-1"
SERIAL_BYTES: Final = 16

NetworkIdText = Annotated[NetworkId, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
Serial = Annotated[bytes, msgspec.Meta(min_length=SERIAL_BYTES, max_length=SERIAL_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]


class Right(IntFlag):
    """What a member may do besides taking part."""

    SPONSOR = 1  # invite others, renew certificates, and revoke those below it


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """`sponsor` says that `peer` is a member of `network` from `issued_s` to `expires_s` (wall clock, since the epoch)."""

    network: NetworkIdText
    peer: PeerIdText
    sponsor: PeerIdText
    rights: Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
    serial: Serial
    issued_s: Seconds
    expires_s: Seconds
    signature: Signature = bytes(64)

    @property
    def may_sponsor(self) -> bool:
        return bool(self.rights & Right.SPONSOR)

    @property
    def is_root(self) -> bool:
        """Whether it is the founder's own."""
        return self.peer == self.sponsor and network_id(self.peer, self.serial) == self.network

    def signed(self) -> bytes:
        """What the signature is over."""
        return _body(self)


Chain = tuple[Certificate, ...]
"""The leaf first, the root last."""


class Revocations(msgspec.Struct, frozen=True, array_like=True):
    """All that `issuer` has revoked so far; a list with a higher number replaces one with a lower.

    Revoked is a peer, for good: whoever is to come back comes with a new identity. It counts for peers in whose chain the
    issuer stands. `chain` is the issuer's own.
    """

    network: NetworkIdText
    issuer: PeerIdText
    number: Annotated[int, msgspec.Meta(ge=1, lt=1 << 62)]
    issued_s: Seconds
    revoked: Annotated[tuple[PeerIdText, ...], msgspec.Meta(min_length=1, max_length=limits.MEMBERS_MAX)]
    chain: Annotated[tuple[Certificate, ...], msgspec.Meta(max_length=limits.CHAIN_MAX)]
    signature: Signature = bytes(64)

    def signed(self) -> bytes:
        """What the signature is over."""
        return _body(self)


_chain_decoder: Final = msgspec.msgpack.Decoder(tuple[Certificate, ...])
_revocations_decoder: Final = msgspec.msgpack.Decoder(Revocations)


def network_id(founder: PeerId, nonce: bytes) -> NetworkId:
    return NetworkId(hashlib.sha256(b"weft-network-1" + founder.encode() + nonce).hexdigest()[:32])


def encode_chain(chain: Chain) -> bytes:
    return msgspec.msgpack.encode(chain) if chain else b""


def decode_chain(data: bytes) -> Chain:
    """An empty one for no bytes; raises `Malformed`."""
    if not data:
        return ()
    if len(data) > limits.CHAIN_BYTES_MAX:
        raise Malformed(
            f"a chain of certificates has {len(data)} bytes, {limits.CHAIN_BYTES_MAX} are allowed"
        )
    try:
        return _chain_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"what was shown is no chain of certificates: {error}") from error


def encode_revocations(revocations: Revocations) -> bytes:
    return msgspec.msgpack.encode(revocations)


def decode_revocations(data: bytes) -> Revocations:
    """Raises `Malformed`."""
    if len(data) > limits.REVOCATIONS_BYTES_MAX:
        raise Malformed("a list of revocations is too long")
    try:
        return _revocations_decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"no list of revocations: {error}") from error


def _body(statement: Certificate | Revocations) -> bytes:
    return msgspec.msgpack.encode(msgspec.structs.astuple(statement)[:-1])
