"""One connection to a foreign peer: what it opens here is served within bounds, and this node may open streams to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from mesh.host.foreign.pace import Pace
from mesh.host.foreign.streams import Service
from mesh.host.guard import Guard
from mesh.host.handshake import negotiation
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.stream import MuxedStream
from mesh.rpc import blaming, deadline
from protocols import limits
from protocols.errors import Disconnected, Malformed
from protocols.ids import PeerId
from protocols.streams import Priority

IDLE_CHECK_S: Final = limits.FOREIGN_IDLE_S / 4


class ForeignConnection:
    def __init__(self, muxed: Muxer, services: Mapping[str, Service], guard: Guard) -> None:
        self.peer = PeerId(muxed.peer_id.to_base58())
        self._muxed = muxed
        self._services = services
        self._guard = guard
        self._serving = 0
        self._used = 0  # streams that there were
        self._openings = Pace(limits.FOREIGN_OPENINGS_PER_S)

    async def run(self) -> None:
        """Until it has ended; what the peer does wrong ends it and is counted."""
        await self._guard.contain("a foreign connection", self._run)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, nursery.cancel_scope)
            nursery.start_soon(self._end_when_idle)
            await self._accept(nursery)

    async def _carry(self, connection: trio.CancelScope) -> None:
        await self._muxed.start()
        connection.cancel()

    async def _end_when_idle(self) -> None:
        seen, idle_since = -1, trio.current_time()
        while True:
            await trio.sleep(IDLE_CHECK_S)
            if self._muxed.has_streams or self._used != seen:
                seen, idle_since = self._used, trio.current_time()
            elif trio.current_time() - idle_since >= limits.FOREIGN_IDLE_S:
                await self._muxed.close()
                return

    # The peer's streams ------------------------------------------------------------------------------------------------

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await self._muxed.accept_stream()
            except MuxedConnUnavailable:
                return
            now = trio.current_time()
            self._openings.spend(1, now)
            if self._openings.due > now:
                raise Malformed("a flood of streams", self.peer)
            self._used += 1
            if self._serving < limits.FOREIGN_STREAMS_MAX:
                self._serving += 1
                nursery.start_soon(self._serve, stream)
            else:
                self._guard.faults["Overloaded"] += 1
                await stream.reset()

    async def _serve(self, stream: MuxedStream) -> None:
        try:
            if await self._guard.contain("a foreign stream", partial(self._agree_and_serve, stream)):
                await stream.close()
        finally:
            self._serving -= 1
            with trio.move_on_after(1, shield=True):
                await stream.reset()  # nothing happens to one that both sides have closed

    async def _agree_and_serve(self, stream: MuxedStream) -> None:
        stream.set_priority(Priority.URGENT)  # whose window grows least
        with (
            blaming(self.peer),
            deadline(limits.OPEN_STREAM_S, f"{self.peer} did not say what its stream is for"),
        ):
            protocol, _ = await negotiation.accept(stream, self._services.__contains__)
        await self._services[protocol](stream)

    # This node's streams -----------------------------------------------------------------------------------------------

    async def open_stream(self, protocol: str) -> MuxedStream:
        """Raises `NoRoute` if the peer does not speak it, `Malformed`, and `Unavailable`."""
        with deadline(limits.OPEN_STREAM_S, f"{self.peer} did not answer for a stream"):
            stream = await self._muxed.open_stream()
            agreed = False
            try:
                with blaming(self.peer):
                    await negotiation.propose(stream, protocol)
                agreed = True
            except Disconnected as error:
                raise Disconnected(f"{self.peer} ended a stream for {protocol}") from error
            finally:
                if not agreed:
                    await stream.reset()
        self._used += 1
        return stream
