"""How fast a foreign peer may go: bytes that wait in the kernel cost it, bytes that are read cost this node.

Nothing is refused for being fast. What has been read is charged, and nothing more is read until it is paid for, so that TCP
slows the peer down; a small piece costs as much as a larger one, since it takes as long to look at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import trio

from mesh.host.wire.cipher import TAG_BYTES
from mesh.host.wire.framing import SecureConnection
from protocols import limits

BURST_S: Final = 1.0  # of what is allowed, that may come at once
FRAME_HEAD_BYTES: Final = 2 + TAG_BYTES


class Pace:
    """So much per second (the generic cell rate algorithm). `due` is when the next may come."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._paid_s = -math.inf

    @property
    def due(self) -> float:
        return self._paid_s - BURST_S

    def spend(self, amount: float, now: float) -> None:
        self._paid_s = max(self._paid_s, now) + amount / self._per_s


class PacedConnection(SecureConnection):
    """An encrypted connection that a muxer reads no faster than `FOREIGN_BYTES_PER_S` on its own, and than `pace_with` says
    of all together."""

    _paces: tuple[Pace, ...] = ()

    def pace_with(self, shared: Pace) -> None:
        """From now on; before, as fast as it comes."""
        self._paces = (Pace(limits.FOREIGN_BYTES_PER_S), shared)

    async def receive(self) -> Sequence[bytes]:
        for pace in self._paces:
            await trio.sleep_until(max(pace.due, 0.0))
        if self.is_closed:
            return ()  # meanwhile: the socket may have gone
        frames = await super().receive()
        size_bytes = sum(len(frame) + FRAME_HEAD_BYTES for frame in frames)
        for pace in self._paces:
            pace.spend(max(size_bytes, limits.FOREIGN_TURN_BYTES), trio.current_time())
        return frames
