"""Joining and what members tell each other: invites, contacts, certificates, revocations.

An invite is one string: `weft1.` and the unpadded base64url of a MessagePack array. Whoever holds it may join until it
expires or its uses are spent. It is answered with a chain of certificates (protocols/certificates.py), and that chain is
what makes a member. What members are, where and alive they say over gossip (protocols/records.py, protocols/liveness.py).
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.errors import UserError
from protocols.ids import NetworkId, PeerId
from protocols.messages import Codec

Address = Annotated[str, msgspec.Meta(max_length=256)]
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(max_length=limits.ADDRESSES_MAX)]
PeerIdText = Annotated[PeerId, msgspec.Meta(pattern=r"^[1-9A-HJ-NP-Za-km-z]{40,64}\Z")]  # base58
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
ChainBytes = Annotated[bytes, msgspec.Meta(max_length=limits.CHAIN_BYTES_MAX)]
Secret = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]

INVITE_PREFIX: Final = "weft1."


class Contact(msgspec.Struct, frozen=True, array_like=True):
    """How to reach a peer: `control` and `data` are multiaddrs without the /p2p part, `static` its X25519 Noise key.

    A contact with a higher `sequence` replaces a lower one (the wall clock of its owner in ms when it was made).
    """

    peer: PeerIdText
    static: Key
    control: Addresses
    data: Addresses
    sequence: int = 0
    name: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Invite(msgspec.Struct, frozen=True, array_like=True):
    """`expires_s` is wall-clock seconds since the epoch."""

    network: NetworkId
    inviter: Contact
    secret: Secret
    uses: int
    expires_s: int

    def to_text(self) -> str:
        return INVITE_PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")


def parse_invite(text: str) -> Invite:
    """Raises `UserError` for anything that is not an invite."""
    body = text.strip()
    if not body.startswith(INVITE_PREFIX) or len(body) > limits.JOIN_BYTES_MAX:
        raise UserError(
            f"That is no invite: one starts with '{INVITE_PREFIX}'. Make one with 'weft invite' on a member."
        )
    encoded = body.removeprefix(INVITE_PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(raw, type=Invite)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise UserError(
            "The invite is damaged: copy the whole string, or make a new one with 'weft invite'."
        ) from error


class JoinRequest(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    secret: Secret
    contact: Contact


class JoinAccepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """Whom the inviter knows, itself included, and the encoded chain that makes the joiner a member."""

    members: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=limits.MEMBERS_MAX)]
    chain: ChainBytes = b""


class JoinRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """`reason` is one of: unknown, expired, spent, full, revoked, powerless."""

    reason: Annotated[str, msgspec.Meta(max_length=256)]


class Revoked(msgspec.Struct, frozen=True, array_like=True, tag="revoked"):
    """An encoded list of revocations, of whatever issuer."""

    revocations: Annotated[bytes, msgspec.Meta(max_length=limits.REVOCATIONS_BYTES_MAX)]


class Renew(msgspec.Struct, frozen=True, array_like=True, tag="renew"):
    """The sender asks for a new certificate below the receiver's; answered by `Renewed` on the same stream."""


class Renewed(msgspec.Struct, frozen=True, array_like=True, tag="renewed"):
    """No chain: the receiver may not."""

    chain: ChainBytes = b""


class WhereIs(msgspec.Struct, frozen=True, array_like=True, tag="where is"):
    """The sender can't reach a member with what it knows of it; answered by `Whereabouts` on the same stream."""

    peer: PeerIdText


class Whereabouts(msgspec.Struct, frozen=True, array_like=True, tag="whereabouts"):
    contact: Contact | None = None


JoinMessage = JoinRequest | JoinAccepted | JoinRefused
MembersMessage = Revoked | Renew | Renewed | WhereIs | Whereabouts

JOIN_CODEC: Final[Codec[JoinMessage]] = Codec(JoinMessage)
MEMBERS_CODEC: Final[Codec[MembersMessage]] = Codec(MembersMessage)
