"""Yamux over an encrypted connection: the driver of the machine in `yamux`, in the place of libp2p's own muxer.

One task reads: it takes all that has arrived, feeds the machine, and wakes whose stream has changed. It never waits to write,
so two sides that send without reading do not block each other. Writing is `writer`'s.

trio runs one task at a time and nothing is awaited in between, so there are no locks. A caller's memory is encrypted from
where it lies. What the socket has not taken is at most one batch; everything else still waits where priorities reach it.
"""

from __future__ import annotations

from collections import deque

import trio
from libp2p.abc import IMuxedConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from multiaddr import Multiaddr

from mesh.host.guard import Guard
from mesh.host.wire.framing import Altered, SecureConnection
from mesh.host.wire.stream import MuxedStream
from mesh.host.wire.substream import Substream
from mesh.host.wire.writer import Writer
from mesh.host.wire.yamux import Yamux
from protocols.errors import Disconnected, Malformed
from protocols.ids import PeerId
from protocols.streams import Priority


class Muxer(IMuxedConn):
    """One connection. What the peer does wrong is contained and counted by `guard`; the connection ends with it."""

    def __init__(self, conn: SecureConnection, peer_id: ID, guard: Guard) -> None:
        self.peer_id = peer_id
        self.secured_conn = conn
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self._peer = PeerId(peer_id.to_base58())
        self._guard = guard
        self._machine = Yamux(self._peer, conn.is_initiator)
        self.writer = Writer(conn, self._machine, self._tell_sent)
        self._streams: dict[Substream, MuxedStream] = {}
        self._accepted: deque[MuxedStream] = deque()
        self._acceptable = trio.lowlevel.ParkingLot()
        self._has_ended = False

    # Its life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the connection has ended."""
        try:
            await self._guard.contain("a connection", self._run)
        finally:
            await self._end()

    async def _run(self) -> None:
        blame: Malformed | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            self.event_started.set()
            try:
                await self._read()
            except Malformed as error:
                blame = error
            nursery.cancel_scope.cancel()
        if blame is not None:
            await self.writer.finish()
            raise blame

    async def _write(self, connection: trio.CancelScope) -> None:
        await self.writer.run()
        connection.cancel()

    async def _end(self) -> None:
        self._has_ended = True
        self.secured_conn.give_up()
        for stream in list(self._streams.values()):
            stream.wake()
        self._streams.clear()
        self._acceptable.unpark_all()
        with trio.CancelScope(shield=True):
            await self.secured_conn.close()
        self.event_closed.set()

    async def close(self) -> None:
        """Idempotent; a word of farewell if the socket takes it at once."""
        if not self.is_lost:
            self._machine.leave()
            self.writer.write_now()
        await self._end()

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended or is about to."""
        return self._has_ended or self.secured_conn.is_closed

    @property
    def is_open(self) -> bool:
        """Whether it takes new streams."""
        return not (self.is_lost or self._machine.is_peer_leaving)

    @property
    def has_streams(self) -> bool:
        return bool(self._machine.streams)

    # Reading -----------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        secured, machine = self.secured_conn, self._machine
        while not (machine.is_peer_leaving and not machine.streams):
            try:
                frames = await secured.receive()
            except Altered:
                raise
            except ConnectionClosedError:
                return
            if not frames:
                return
            now_s = trio.current_time()
            changed: dict[Substream, None] = {}
            for plain in frames:
                opened, touched = machine.receive(plain, now_s)
                for substream in opened:
                    self._accepted.append(self._adopt(substream))
                    self._acceptable.unpark()
                changed |= dict.fromkeys(touched)
            for substream in changed:
                self._tell(substream)
            if self.writer.has_data:
                self.writer.write_now()
            elif machine.answers:
                self.writer.write_soon()  # unless whoever has been woken answers, and takes them along

    def _adopt(self, substream: Substream) -> MuxedStream:
        stream = self._streams[substream] = MuxedStream(self, self._peer, substream)
        return stream

    def _tell(self, substream: Substream) -> None:
        stream = self._streams.get(substream)
        if stream is None:
            return
        self.writer.offer(substream)
        if substream.is_gone:
            del self._streams[substream]
        stream.wake()

    def _tell_sent(self, substream: Substream) -> None:
        if substream.is_ending and not self.writer.has_parcels(substream):
            self._machine.end(substream)
            if substream.is_gone:
                self._streams.pop(substream, None)
        if (stream := self._streams.get(substream)) is not None:
            stream.wake()

    def read(self, substream: Substream, max_bytes: int) -> bytes:
        """Of what has arrived on a stream."""
        data = self._machine.read(substream, max_bytes)
        if self._machine.answers:
            self.writer.write_soon()
        return data

    # Streams -----------------------------------------------------------------------------------------------------------

    async def open_stream(self, priority: Priority = Priority.NORMAL) -> MuxedStream:
        """At once; the peer hears of it with the first data. Raises `Unavailable`: `Overloaded` at the limit."""
        await trio.lowlevel.checkpoint()
        if self.is_lost:
            raise Disconnected("the connection ended")
        stream = self._adopt(self._machine.open(priority))
        self.writer.write_soon()
        return stream

    async def accept_stream(self) -> MuxedStream:
        """The next that is still there when its turn comes."""
        await trio.lowlevel.checkpoint()
        while True:
            while self._accepted:
                if not (stream := self._accepted.popleft()).is_over:
                    return stream
            if self.is_lost:
                raise MuxedConnUnavailable("the connection ended")
            await self._acceptable.park()

    def end(self, substream: Substream) -> None:
        substream.is_ending = True
        if not self.writer.cut(substream):  # otherwise once that is sent: see `_tell_sent`
            self._machine.end(substream)
        self._settle(substream)

    def reset(self, substream: Substream) -> None:
        self._machine.reset(substream)
        self.writer.drop(substream)
        self._settle(substream)

    def _settle(self, substream: Substream) -> None:
        stream = self._streams.get(substream)
        if substream.is_gone:
            self._streams.pop(substream, None)
        if stream is not None:
            stream.wake()
        self.writer.write_now()

    # What the swarm asks for -------------------------------------------------------------------------------------------

    @property
    def is_initiator(self) -> bool:
        return self.secured_conn.is_initiator

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.secured_conn.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.secured_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.secured_conn.get_connection_type()
