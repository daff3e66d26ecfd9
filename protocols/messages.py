"""Encoding of control messages: msgspec structs as MessagePack arrays, told apart by tag, validated while decoding.

Each stream kind has one union of messages; a struct only ever grows at its end. Non-finite floats, which MessagePack
can carry, are refused here once for all.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, Generic, TypeVar

import msgspec

from protocols.errors import Malformed

SEARCHED_BYTES_MAX: Final = 4096
# The first bytes of a double or single whose exponent is all ones, behind their type byte (MessagePack, float format family).
_NOT_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")

MessageT = TypeVar("MessageT", bound=msgspec.Struct)


class Codec(Generic[MessageT]):
    """Encodes and decodes the messages of one stream kind: `Codec(A | B | C)`."""

    def __init__(self, union: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[MessageT] = msgspec.msgpack.Decoder(union)

    def encode(self, message: MessageT) -> bytes:
        return msgspec.msgpack.encode(message)

    def decode(self, body: bytes | bytearray) -> MessageT:
        """One message; raises `Malformed` for anything else."""
        try:
            message = self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise Malformed(f"undecodable message: {error}") from error
        # A long body has more bytes than fields; in a short one no number is infinite or NaN if no bytes look like it.
        if (len(body) > SEARCHED_BYTES_MAX or _NOT_FINITE.search(body)) and not _is_finite(message):
            raise Malformed("a number in the message is not finite")
        return message


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, msgspec.Struct):
        return all(_is_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, tuple | list):
        return all(map(_is_finite, value))
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return True
