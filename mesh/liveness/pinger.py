"""Pings over one long-lived stream per monitored peer, opened when there is something to send and again after it broke.

A pinger decides nothing: what it can't deliver is a pong that stays out. Only that nobody listens any more is told at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import structlog
import trio

from mesh.nursery import peer_nursery
from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Disconnected, Malformed, RemoteFault, Unavailable
from protocols.ids import NetworkId, PeerId, shortened
from protocols.liveness import WATCH_CODEC, Ping, Pong, WatchMessage
from protocols.seams import Network

log = structlog.get_logger()


class Pinger:
    """Of one peer. `ponged(peer, nonce)` is called for every answer, `refused(peer)` when it can't be dialled any more."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        peer: PeerId,
        ponged: Callable[[PeerId, int], None],
        refused: Callable[[PeerId], None],
    ) -> None:
        self._network = network
        self._network_id = network_id
        self._peer = peer
        self._ponged = ponged
        self._refused = refused
        self._nonces, self._todo = trio.open_memory_channel[int](1)
        self._scope = trio.CancelScope()
        self._channel: Channel[WatchMessage] | None = None  # while its stream is open

    def ping(self, nonce: int) -> None:
        """Never waits. A ping behind one that could not be sent yet is left out."""
        with suppress(Disconnected):  # the task opens another stream
            if self._channel is not None and self._channel.send_nowait(Ping(nonce)):
                return
        try:
            self._nonces.send_nowait(nonce)
        except trio.WouldBlock:
            log.debug("a ping waits for its stream", peer=shortened(self._peer))

    def stop(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        """Until `stop`."""
        with self._scope:
            async for nonce in self._todo:
                try:
                    await self._converse(nonce)
                except (Unavailable, RemoteFault) as error:
                    log.debug("no pings for now", peer=shortened(self._peer), reason=str(error))

    async def _converse(self, nonce: int) -> None:
        is_open = False
        try:
            async with dial(
                self._network, self._peer, streams.PING, WATCH_CODEC, self._network_id
            ) as channel:
                is_open = True
                self._channel = channel
                async with peer_nursery() as nursery:
                    nursery.start_soon(self._read, channel)
                    await self._send(channel, nonce)
        except Disconnected:
            if not is_open:
                self._refused(self._peer)
            raise
        finally:
            self._channel = None

    async def _send(self, channel: Channel[WatchMessage], nonce: int) -> None:
        while True:
            if not channel.send_nowait(Ping(nonce)):
                with deadline(limits.WATCH_IDLE_S, f"{self._peer} takes no ping"):
                    await channel.send(Ping(nonce))
            nonce = await self._todo.receive()

    async def _read(self, channel: Channel[WatchMessage]) -> None:
        while True:
            match await channel.receive():
                case Pong(nonce):
                    self._ponged(self._peer, nonce)
                case _:
                    raise Malformed("only pongs answer pings", self._peer)
