"""Joining, first form: invites, contacts and vouching.

An invite is one string: `weft1.` and the unpadded base64url of a MessagePack array. Whoever holds it may join until it
expires or its uses are spent. The inviter vouches for the joiner to all members; a member accepts exactly the ids that
a member vouched for. (Certificates replace vouching in a later protocol minor.)
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
    """Everybody the inviter knows, itself included."""

    members: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=limits.MEMBERS_MAX)]


class JoinRefused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """`reason` is one of: unknown, expired, spent, full."""

    reason: Annotated[str, msgspec.Meta(max_length=256)]


class Announce(msgspec.Struct, frozen=True, array_like=True, tag="announce"):
    """The sender's own contact, told on every new connection and when its addresses change."""

    contact: Contact


class Vouch(msgspec.Struct, frozen=True, array_like=True, tag="vouch"):
    """The sender, a member, has admitted these."""

    contacts: Annotated[tuple[Contact, ...], msgspec.Meta(max_length=limits.MEMBERS_MAX)]


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag="leaving"):
    """The sender goes down on purpose."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    nonce: int


class Pong(msgspec.Struct, frozen=True, array_like=True, tag="pong"):
    nonce: int


JoinMessage = JoinRequest | JoinAccepted | JoinRefused
MembersMessage = Announce | Vouch | Leaving
PingMessage = Ping | Pong

JOIN_CODEC: Final[Codec[JoinMessage]] = Codec(JoinMessage)
MEMBERS_CODEC: Final[Codec[MembersMessage]] = Codec(MembersMessage)
PING_CODEC: Final[Codec[PingMessage]] = Codec(PingMessage)
