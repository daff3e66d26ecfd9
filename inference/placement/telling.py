"""Tells every member that is up what this node holds, after every change and when the member comes up.

One task per member sends one edition after the other, each on a stream of its own whose end says that it was taken: so an older
edition can't overtake a newer one, and a member that can't be reached is told again until it is down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Disconnected, RemoteFault, Unavailable
from protocols.ids import NetworkId, PeerId
from protocols.placement import PLACEMENT_CODEC, Claims, PlacementMessage
from protocols.seams import Network

RETRY_S: Final = 1.0


class Telling:
    """`compose` gives the newest claims of this node."""

    def __init__(self, network: Network, network_id: NetworkId, compose: Callable[[], Claims]) -> None:
        self._network = network
        self._network_id = network_id
        self._compose = compose
        self._edition = 0
        self._changed = trio.Event()

    def changed(self) -> None:
        """Never waits."""
        self._edition += 1
        self._changed.set()
        self._changed = trio.Event()

    async def keep_told(self, peer: PeerId) -> None:
        """Until cancelled."""
        told = None
        while True:
            if told == self._edition:
                await self._changed.wait()
                continue
            edition = self._edition
            if await self._tell(peer, self._compose()):
                told = edition
            else:
                await trio.sleep(RETRY_S)

    async def _tell(self, peer: PeerId, claims: Claims) -> bool:
        try:
            await send_alone(self._network, self._network_id, peer, claims)
        except (Unavailable, RemoteFault):
            return False
        return True


async def send_alone(
    network: Network, network_id: NetworkId, peer: PeerId, message: PlacementMessage
) -> None:
    """One message that has no reply; returns when the peer has dealt with it. Raises `Unavailable` or `RemoteFault`."""
    async with dial(network, peer, streams.PLACEMENT, PLACEMENT_CODEC, network_id) as channel:
        with deadline(limits.REPLY_S, f"{peer} did not take a {type(message).__name__}"):
            await channel.send(message)
            await _until_closed(channel)


async def _until_closed(channel: Channel[PlacementMessage]) -> None:
    try:
        await channel.receive()
    except Disconnected:
        return  # the handler has returned, or refused it, and will not take it the second time either
