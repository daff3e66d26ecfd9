"""Invites that this node has given out: how often each may still be used, and until when.

Only the sha256 of a secret is kept, so that whoever reads the file can't join with it; secrets have 128 random bits, so a
plain hash is enough. A spent invite is remembered until it expires, to tell its next holder that it is spent.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from enum import Enum
from typing import Final

import msgspec

from protocols import limits
from protocols.errors import LocalFault, UserError

INVITES_FILE: Final = "invites.msgpack"
SECRET_BYTES: Final = 16
TTL_S_MAX: Final = 366 * 86_400


class Verdict(Enum):
    """What becomes of a secret; the values are the reasons of `JoinRefused`."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    SPENT = "spent"


class Record(msgspec.Struct, array_like=True):
    hashed: bytes
    uses_left: int
    expires_s: int


_decoder: Final = msgspec.msgpack.Decoder(list[Record])


class Invites:
    """The table; `now_s` is the wall clock. The caller stores `encode()` after every change."""

    def __init__(self, records: list[Record] | None = None) -> None:
        self._records = records or []

    @classmethod
    def decode(cls, data: bytes | None) -> Invites:
        """Raises `LocalFault` for a damaged file."""
        if data is None:
            return cls()
        try:
            return cls(_decoder.decode(data))
        except msgspec.DecodeError as error:
            raise LocalFault(
                f"the file of invites is damaged ({error}); remove it, and make new ones"
            ) from error

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self._records)

    def make(self, secret: bytes, uses: int, ttl_s: float, now_s: float) -> int:
        """Remember a new invite; gives its expiry. Raises `UserError` for senseless figures or when there are too many."""
        if not 1 <= uses <= limits.INVITE_USES_MAX:
            raise UserError(f"An invite has 1 to {limits.INVITE_USES_MAX} uses: change --uses.")
        if not 0 < ttl_s <= TTL_S_MAX:
            raise UserError("An invite is valid for some time up to a year: change its time to live.")
        self._records = [record for record in self._records if record.expires_s > now_s]
        if len(self._records) >= limits.INVITES_MAX:
            self._drop_spent()
        expires_s = math.ceil(now_s + ttl_s)
        self._records.append(Record(_hash(secret), uses, expires_s))
        return expires_s

    def _drop_spent(self) -> None:
        self._records = [record for record in self._records if record.uses_left]
        if len(self._records) >= limits.INVITES_MAX:
            raise UserError(
                f"{limits.INVITES_MAX} invites are outstanding: use one of them, or let some expire."
            )

    def redeem(self, secret: bytes, now_s: float) -> Verdict:
        """Use an invite once."""
        record = self._find(secret)
        if record is None:
            return Verdict.UNKNOWN
        if record.expires_s <= now_s:
            return Verdict.EXPIRED
        if not record.uses_left:
            return Verdict.SPENT
        record.uses_left -= 1
        return Verdict.ACCEPTED

    def _find(self, secret: bytes) -> Record | None:
        # Every record is compared, in constant time, so that the time taken says nothing about any of them.
        hashed = _hash(secret)
        matches = [record for record in self._records if hmac.compare_digest(record.hashed, hashed)]
        return matches[0] if matches else None

    def open_until_s(self, now_s: float) -> float:
        """Strangers are welcome until then: the latest expiry, or `-inf` if there is no invite left."""
        return max(
            (record.expires_s for record in self._records if record.expires_s > now_s), default=-math.inf
        )


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(b"weft invite\x00" + secret).digest()
