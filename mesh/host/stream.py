"""A yamux stream as `protocols.seams.Stream`: everything that is known here of py-libp2p's muxer.

What the stock stream does and this one does not:
* a write gives up after 5 s without a window update, which a reader busy for longer turns into a reset: here a writer waits
  for the window before it hands a chunk down, for as long as the reader likes;
* a read that is cancelled while it sends its window update loses the bytes: here nothing is taken before it can be returned;
* a reset from this side does not wake a reader of this side;
* the end of the connection looks like the end of the stream: here it is `Disconnected`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio
from libp2p.network.connection.exceptions import RawConnError
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import HEADER_SIZE, Yamux, YamuxStream

from mesh.host.framing import PLAIN_BYTES_MAX, RAW_ERRORS, SecureConnection
from protocols.errors import Disconnected
from protocols.ids import PeerId

CHUNK_BYTES: Final = PLAIN_BYTES_MAX - HEADER_SIZE  # one yamux frame in one Noise frame
READ_BYTES: Final = 65_536
WINDOW_POLL_S_MIN: Final = 0.002  # yamux tells nobody of a window update
WINDOW_POLL_S_MAX: Final = 0.032
CLOSE_S: Final = 1.0  # to hand the last frame to the connection, even for a caller that is cancelled

_BROKEN: Final = (MuxedStreamError, MuxedStreamReset, MuxedStreamEOF, RawConnError, *RAW_ERRORS)


def is_lost(connection: Yamux) -> bool:
    """Whether a connection has ended or is about to."""
    secured = connection.secured_conn
    return connection.event_shutting_down.is_set() or (
        isinstance(secured, SecureConnection) and secured.is_closed
    )


class MuxedStream:
    """One end of a yamux stream; implements `protocols.seams.Stream`."""

    def __init__(self, peer: PeerId, muxed: YamuxStream) -> None:
        self._peer = peer
        self._muxed = muxed
        self._connection: Yamux = muxed.conn
        self._was_reset_here = False
        self._pending = bytearray()

    @property
    def peer(self) -> PeerId:
        return self._peer

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data).cast("B")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        while rest:
            room = await self._await_window()
            chunk, rest = bytes(rest[: min(room, CHUNK_BYTES)]), rest[min(room, CHUNK_BYTES) :]
            try:
                await self._muxed.write(chunk)
            except _BROKEN as error:
                raise Disconnected("the stream or its connection ended") from error

    async def _await_window(self) -> int:
        pause_s = WINDOW_POLL_S_MIN
        while self._muxed.send_window <= 0:
            self._check_open()
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, WINDOW_POLL_S_MAX)
        return self._muxed.send_window

    def _check_open(self) -> None:
        muxed = self._muxed
        if self._has_failed() or muxed.closed or muxed.send_closed:
            raise Disconnected("the stream is closed" if muxed.send_closed else "the stream was reset")

    def _has_failed(self) -> bool:
        """Reset from here, or the connection is gone, or reset by the peer before it had closed."""
        muxed = self._muxed
        return (
            self._was_reset_here
            or is_lost(self._connection)
            or (muxed.reset_received and not muxed.recv_closed)
        )

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        if self._pending:
            await trio.lowlevel.checkpoint()
            return self._take_pending(max_bytes)
        return await self._fetch(max_bytes)

    async def _fetch(self, max_bytes: int) -> bytes:
        await self._await_readable()
        if self._has_failed():
            raise Disconnected("the stream was reset or its connection ended")
        if not self._buffer():
            return b""
        data = b""
        # Shielded, since a cancelled read forgets what it took; the connection bounds how long its writes last.
        with trio.CancelScope(shield=True):
            try:
                data = await self._muxed.read(max_bytes)
            except _BROKEN as error:
                raise Disconnected("the stream or its connection ended") from error
        return data

    def _buffer(self) -> bytearray | None:
        return self._connection.stream_buffers.get(self._muxed.stream_id)

    async def _await_readable(self) -> None:
        events, number = self._connection.stream_events, self._muxed.stream_id
        await trio.lowlevel.checkpoint_if_cancelled()
        while not (self._buffer() or self._muxed.recv_closed or self._muxed.closed or self._has_failed()):
            event = events.get(number)
            if event is None:
                break
            await event.wait()
            if events.get(number) is event:
                events[number] = trio.Event()

    def _take_pending(self, max_bytes: int) -> bytes:
        data = bytes(self._pending[:max_bytes])
        del self._pending[:max_bytes]
        return data

    async def close(self) -> None:
        with trio.move_on_after(CLOSE_S, shield=True), suppress(*_BROKEN):
            if not self._muxed.send_closed:
                await self._muxed.close()

    async def reset(self) -> None:
        muxed = self._muxed
        if self._was_reset_here or (muxed.send_closed and muxed.recv_closed and not self._has_failed()):
            return
        self._was_reset_here = True
        event = self._connection.stream_events.get(muxed.stream_id)
        with trio.move_on_after(CLOSE_S, shield=True), suppress(*_BROKEN):
            await muxed.reset()
        if event is not None:
            event.set()
        self._forget()

    def _forget(self) -> None:
        """Unread data of a stream that was reset would keep it in yamux's tables for a minute and more."""
        for table in (
            self._connection.streams,
            self._connection.stream_buffers,
            self._connection.stream_events,
        ):
            table.pop(self._muxed.stream_id, None)

    # What negotiation needs ------------------------------------------------------------------------------------------

    async def read_exactly(self, count: int) -> bytes:
        """Keeps what arrived too early for `receive`. Raises `Disconnected`."""
        while len(self._pending) < count:
            chunk = await self._fetch(READ_BYTES)
            if not chunk:
                raise Disconnected("the stream ended")
            self._pending += chunk
        return self._take_pending(count)

    async def write(self, data: bytes) -> None:
        await self.send(data)
