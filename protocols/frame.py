"""Length-prefixed frames: four bytes big-endian, then that many bytes.

The decoder is fed whatever arrived and gives back whole frames; it never holds more than one frame's limit and raises
`Oversized` from the prefix alone, before any of the body is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from protocols.errors import Oversized

PREFIX = struct.Struct(">I")


def encode_frame(body: bytes, limit_bytes: int) -> bytes:
    """The frame of `body`; raises `Oversized` if the other side would refuse it."""
    size_bytes = len(body)
    if size_bytes > limit_bytes:
        raise Oversized(f"a frame of {size_bytes} bytes exceeds the {limit_bytes} allowed")
    return PREFIX.pack(size_bytes) + body


@dataclass(slots=True)
class FrameDecoder:
    """Cuts a byte stream into frames of at most `limit_bytes`."""

    limit_bytes: int
    _pending: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Whole frames in order; raises `Oversized` at the first prefix past the limit."""
        self._pending += data
        while len(self._pending) >= PREFIX.size:
            (length,) = PREFIX.unpack_from(self._pending)
            if length > self.limit_bytes:
                raise Oversized(f"a frame of {length} bytes exceeds the {self.limit_bytes} allowed")
            end = PREFIX.size + length
            if len(self._pending) < end:
                return
            frame = bytes(self._pending[PREFIX.size : end])
            del self._pending[:end]
            yield frame

    @property
    def is_between_frames(self) -> bool:
        """False if the stream ended inside a frame."""
        return not self._pending
