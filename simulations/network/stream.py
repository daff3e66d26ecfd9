"""One end of a virtual stream: a window of unread bytes, and news from the other end that comes over a wire."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from protocols.errors import Disconnected
from protocols.ids import PeerId
from simulations.network.wire import Wire

WINDOW_BYTES: Final = 256 << 10  # as a fresh yamux stream has; it does not grow
SEGMENT_BYTES: Final = 64 << 10


class VirtualStream:
    """Implements `protocols.seams.Stream`. `twin` is the other end, told of things only through `wire`."""

    twin: VirtualStream

    def __init__(self, peer: PeerId, wire: Wire, forget: Callable[[VirtualStream], None]) -> None:
        self._peer = peer
        self._wire = wire
        self._forget = forget
        self._inbound = bytearray()
        self._room_bytes = WINDOW_BYTES
        self._is_closed = False  # nothing more is sent
        self._is_ended = False  # nothing more arrives
        self._failure: str | None = None
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        rest = memoryview(data).cast("B")
        while rest:
            self._check_sendable()
            size = min(self._room_bytes, SEGMENT_BYTES, len(rest))
            if not size:
                await self._changed.park()
                continue
            self._room_bytes -= size
            self._wire.post(partial(self.twin.arrive, bytes(rest[:size])))
            rest = rest[size:]
        self._check_sendable()

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        self._check_sendable()
        whole = memoryview(data).cast("B")
        if len(whole) > self._room_bytes:
            return False
        self._room_bytes -= len(whole)
        for start in range(0, len(whole), SEGMENT_BYTES):
            self._wire.post(partial(self.twin.arrive, bytes(whole[start : start + SEGMENT_BYTES])))
        return True

    def _check_sendable(self) -> None:
        if self._failure or self._is_closed:
            raise Disconnected(self._failure or "this side of the stream is closed")

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await trio.lowlevel.checkpoint()
        while not (self._inbound or self._is_ended or self._failure):
            await self._changed.park()
        if self._failure:
            raise Disconnected(self._failure)
        data = bytes(self._inbound[:max_bytes])
        del self._inbound[:max_bytes]
        if data and not self._is_ended:
            self._wire.post(partial(self.twin.make_room, len(data)))
        return data

    async def close(self) -> None:
        if not (self._is_closed or self._failure):
            self._is_closed = True
            self._wire.post(self.twin.end)
            self._forget_if_over()

    async def reset(self) -> None:
        # Once both directions are closed there is nothing to give up, and what was received can still be read.
        if not (self._failure or (self._is_closed and self._is_ended)):
            self._wire.post(partial(self.twin.fail, "the peer reset the stream"))
            self.fail("the stream was reset")

    # What the wire brings, and the connection's end ---------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        if not self._failure:
            self._inbound += data
            self._changed.unpark_all()

    def make_room(self, size_bytes: int) -> None:
        self._room_bytes += size_bytes
        self._changed.unpark_all()

    def end(self) -> None:
        self._is_ended = True
        self._changed.unpark_all()
        self._forget_if_over()

    def fail(self, reason: str) -> None:
        if self._is_closed and self._is_ended:
            return
        self._failure = self._failure or reason
        self._inbound.clear()
        self._changed.unpark_all()
        self._forget(self)

    def _forget_if_over(self) -> None:
        if self._is_closed and self._is_ended:
            self._forget(self)
