"""What has arrived on one stream and was not read yet: whole pieces as they were decrypted, and small ones run together.

A large piece is kept and handed out as it is, without a copy. Small ones are joined, so that a peer which sends single bytes
takes no more memory than the bytes themselves.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SMALL_BYTES: Final = 2048  # below this, joining is cheaper than an object of its own
JOINED_BYTES: Final = 65_536


class Inbox:
    __slots__ = ("_pieces", "_start", "size_bytes")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray] | None = None  # most streams of an idle peer have none
        self._start = 0  # what was taken of the first
        self.size_bytes = 0

    def put(self, piece: bytes) -> None:
        if self._pieces is None:
            self._pieces = deque()
        self.size_bytes += len(piece)
        if len(piece) >= SMALL_BYTES:
            self._pieces.append(piece)
            return
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) < JOINED_BYTES:
            last += piece
        else:
            self._pieces.append(bytearray(piece))

    def take(self, max_bytes: int) -> bytes:
        """At most so many, in order; b"" if there is nothing."""
        if not self._pieces or max_bytes <= 0:
            return b""
        first, start = self._pieces[0], self._start
        if len(first) - start <= max_bytes:
            self._pieces.popleft()
            self._start = 0
            data = bytes(first[start:]) if start else bytes(first)
        else:
            self._start = start + max_bytes
            data = bytes(first[start : self._start])
        self.size_bytes -= len(data)
        return data

    def clear(self) -> None:
        self._pieces = None
        self._start = self.size_bytes = 0
