"""Inbound streams: what they are for, whether the peer may open that, and then the handler."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from mesh.host.admission import may_open
from mesh.host.connection import Connection
from mesh.host.guard import Guard
from mesh.host.handshake import negotiation
from mesh.host.wire.loopback import LoopbackStream, loopback_pair
from mesh.host.wire.stream import MuxedStream
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, NoRoute, Overloaded, Unauthenticated
from protocols.ids import PeerId
from protocols.seams import StreamHandler
from protocols.streams import Plane, StreamKind

LINGER_S: Final = 30.0  # how long a peer may go on with a stream whose handler here has returned


class Serving:
    """The handlers of this node, by stream kind."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._handlers: dict[str, tuple[StreamKind, StreamHandler]] = {}

    def handle(self, kind: StreamKind, handler: StreamHandler) -> None:
        self._handlers[kind.name] = (kind, handler)

    def open_to_self(self, own: PeerId, kind: StreamKind, nursery: trio.Nursery | None) -> LoopbackStream:
        """A stream whose other end has the node's own handler; raises `NoRoute` if there is none."""
        if kind.name not in self._handlers or nursery is None:
            raise NoRoute(f"nothing serves {kind.name} here")
        ours, theirs = loopback_pair(own)
        nursery.start_soon(self._guard.serve, kind.name, theirs, self._handlers[kind.name][1])
        return ours

    async def serve(self, connection: Connection, stream: MuxedStream) -> None:
        """All of an inbound stream's life. Raises what ended it before it reached a handler."""
        connection.serving += 1
        try:
            if connection.serving > limits.STREAMS_PER_CONNECTION_MAX:
                raise Overloaded(f"{connection.peer} has too many streams open")
            kind, handler = await self._agree(connection, stream)
            stream.set_priority(kind.priority)
            await self._guard.serve(kind.name, stream, handler)
            await _see_out(stream)
        finally:
            connection.serving -= 1
            with trio.move_on_after(1, shield=True):
                await stream.reset()

    async def _agree(self, connection: Connection, stream: MuxedStream) -> tuple[StreamKind, StreamHandler]:
        """Raises `Unauthenticated` for a kind that is not open to the peer, and what negotiation raises."""
        peer = connection.peer
        with deadline(limits.OPEN_STREAM_S, f"{peer} did not say what its stream is for"):
            name, _ = await negotiation.accept(stream, partial(self._is_served, connection.plane))
        kind, handler = self._handlers[name]
        if not may_open(kind, is_member=connection.is_member):
            raise Unauthenticated(f"{peer} is no member and opened {name}", peer)
        return kind, handler

    def _is_served(self, plane: Plane, name: str) -> bool:
        return name in self._handlers and self._handlers[name][0].plane is plane


async def _see_out(stream: MuxedStream) -> None:
    """Give the peer time to close its direction too; what it still sends is not wanted."""
    with trio.move_on_after(LINGER_S), suppress(Disconnected):
        while await stream.receive():
            pass
