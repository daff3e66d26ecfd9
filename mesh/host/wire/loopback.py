"""A pair of joined streams in memory: what a node gets when it opens a stream to itself.

Each direction is a pipe of at most `WINDOW_BYTES`, so that a writer feels its reader as it would over the wire.
"""

from __future__ import annotations

from typing import Final

import trio

from protocols.errors import Disconnected
from protocols.ids import PeerId

WINDOW_BYTES: Final = 256 << 10  # as much as a fresh yamux stream may have in flight


class _Pipe:
    """One direction. `closed`: no more will be written; `broken`: both ends gave up."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._closed = False
        self._broken = False
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data).cast("B")
        while rest:
            self._check_writable()
            room = WINDOW_BYTES - len(self._pending)
            if room <= 0:
                await self._writable.park()
                continue
            self._pending += rest[:room]
            rest = rest[room:]
            self._readable.unpark_all()
        self._check_writable()

    def write_now(self, data: bytes | bytearray | memoryview) -> bool:
        """All of it or nothing."""
        self._check_writable()
        whole = memoryview(data).cast("B")
        if len(whole) > WINDOW_BYTES - len(self._pending):
            return False
        self._pending += whole
        self._readable.unpark_all()
        return True

    def _check_writable(self) -> None:
        if self._broken or self._closed:
            raise Disconnected("the stream was reset" if self._broken else "the stream is closed")

    async def read(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not (self._pending or self._closed or self._broken):
            await self._readable.park()
        if self._broken:
            raise Disconnected("the stream was reset")
        data = bytes(self._pending[:max_bytes])
        del self._pending[:max_bytes]
        self._writable.unpark_all()
        return data

    @property
    def is_ended(self) -> bool:
        return self._closed

    def end(self) -> None:
        self._closed = True
        self._wake()

    def break_off(self) -> None:
        self._broken = True
        self._pending.clear()
        self._wake()

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()


class LoopbackStream:
    """One end; implements `protocols.seams.Stream`."""

    def __init__(self, peer: PeerId, inbound: _Pipe, outbound: _Pipe) -> None:
        self._peer = peer
        self._inbound = inbound
        self._outbound = outbound

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self._outbound.write(data)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        return self._outbound.write_now(data)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self._inbound.read(max_bytes)

    async def close(self) -> None:
        self._outbound.end()

    async def reset(self) -> None:
        # Once both directions have ended there is nothing to give up, and what was sent still arrives.
        if not (self._inbound.is_ended and self._outbound.is_ended):
            self._inbound.break_off()
            self._outbound.break_off()


def loopback_pair(peer: PeerId) -> tuple[LoopbackStream, LoopbackStream]:
    """The two ends of one stream; `peer` is who both believe to be talking to."""
    there, back = _Pipe(), _Pipe()
    return LoopbackStream(peer, back, there), LoopbackStream(peer, there, back)
