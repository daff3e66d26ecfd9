"""A yamux stream as `protocols.seams.Stream`, and as libp2p's swarm wants it.

What libp2p's own stream does and this one does not:
* a write gives up after 5 s without a window update, which a reader busy for longer turns into a reset: here a writer waits
  for as long as the reader likes, and whoever has a deadline sets it around the call;
* a read that is cancelled while it sends its window update loses the bytes: here nothing is awaited once they are taken;
* a reset from this side does not wake a reader of this side;
* the end of the connection looks like the end of the stream: here it is `Disconnected`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import trio
from libp2p.abc import IMuxedStream

from mesh.host.wire.outbox import Parcel
from mesh.host.wire.substream import Substream
from protocols.errors import Disconnected
from protocols.ids import PeerId
from protocols.streams import Priority

if TYPE_CHECKING:
    from mesh.host.wire.muxer import Muxer

READ_BYTES: Final = 65_536
CALLS_PER_TURN: Final = 32  # that need not wait, before other tasks have a turn


class MuxedStream(IMuxedStream):
    """One end; implements `protocols.seams.Stream`. Raises `Disconnected` where that says so."""

    def __init__(self, muxer: Muxer, peer: PeerId, substream: Substream) -> None:
        self.muxed_conn = muxer
        self._muxer = muxer
        self._peer = peer
        self._substream = substream
        self._pending = bytearray()
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._was_reset_here = False
        self._calls = 0

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def is_over(self) -> bool:
        """Reset by the peer."""
        return self._substream.was_reset

    def set_priority(self, priority: Priority) -> None:
        self._substream.priority = priority

    def wake(self) -> None:
        """Something has changed."""
        for lot in (self._readable, self._writable):
            if lot:
                lot.unpark_all()

    async def _take_turns(self) -> None:
        """A checkpoint, though not every time: one costs as much as the call itself."""
        self._calls += 1
        if self._calls % CALLS_PER_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    # Sending -----------------------------------------------------------------------------------------------------------

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """`data` is sent from where it lies and may be changed again when this returns, or is cancelled."""
        await self._take_turns()
        self._check_open()
        parcel = Parcel(self._substream, memoryview(data).cast("B"))
        if parcel.is_taken:
            return
        try:
            self._muxer.writer.post(parcel)
            while not parcel.is_taken:
                await self._writable.park()
                self._check_open()
        finally:
            if not parcel.is_taken:
                self._muxer.writer.withdraw(parcel)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        self._check_open()
        parcel = Parcel(self._substream, memoryview(data).cast("B"))
        if len(parcel.rest) > self._substream.credit_bytes or not self._muxer.writer.is_free(self._substream):
            return False
        if not parcel.is_taken:
            self._muxer.writer.post(parcel)
            if not parcel.is_taken:  # it is the writer's task now, and the memory the caller's again
                parcel.rest, parcel.is_kept = memoryview(bytes(parcel.rest)), True
        return True

    def _check_open(self) -> None:
        if self._substream.is_ending:
            raise Disconnected("the stream is closed")
        if self._substream.was_reset or self._muxer.is_lost:
            raise Disconnected("the stream was reset or its connection ended")

    # Receiving ---------------------------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        await self._take_turns()
        if self._pending:
            return self._take_pending(max_bytes)
        return await self._fetch(max_bytes)

    async def _fetch(self, max_bytes: int) -> bytes:
        substream = self._substream
        while True:
            if substream.was_reset and (self._was_reset_here or not substream.has_ended_there):
                raise Disconnected("the stream was reset")
            if substream.inbox.size_bytes and (substream.has_ended_there or not self._muxer.is_lost):
                return self._muxer.read(substream, max_bytes)
            if substream.has_ended_there:
                return b""
            if self._muxer.is_lost:
                raise Disconnected("the connection ended")
            await self._readable.park()

    def _take_pending(self, max_bytes: int) -> bytes:
        data = bytes(self._pending[:max_bytes])
        del self._pending[:max_bytes]
        return data

    # The end -----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self._muxer.end(self._substream)

    async def reset(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        substream = self._substream
        if not (substream.is_gone or (substream.is_ending and substream.has_ended_there)):
            self._was_reset_here = True
            self._muxer.reset(self._substream)

    # What negotiation needs --------------------------------------------------------------------------------------------

    async def read_exactly(self, count: int) -> bytes:
        """Keeps what arrived too early for `receive`. Raises `Disconnected`."""
        while len(self._pending) < count:
            chunk = await self._fetch(READ_BYTES)
            if not chunk:
                raise Disconnected("the stream ended")
            self._pending += chunk
        return self._take_pending(count)

    # What the swarm may ask for ----------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        return await self.receive(READ_BYTES if n is None or n < 0 else n)

    async def write(self, data: bytes) -> None:
        await self.send(data)

    def set_deadline(self, ttl: int) -> None:
        """Deadlines are set around calls here, not in streams."""

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._muxer.get_remote_address()

    async def __aenter__(self) -> Self:
        return self
