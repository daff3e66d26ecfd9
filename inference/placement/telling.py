"""Messages of placement that have no reply: each goes on a stream of its own, whose end says that it was taken."""

from __future__ import annotations

from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Disconnected
from protocols.ids import NetworkId, PeerId
from protocols.placement import PLACEMENT_CODEC, PlacementMessage
from protocols.seams import Network


async def send_alone(
    network: Network,
    network_id: NetworkId,
    peer: PeerId,
    message: PlacementMessage,
    within_s: float = limits.REPLY_S,
) -> None:
    """One message that has no reply; returns when the peer has dealt with it. Raises `Unavailable` or `RemoteFault`."""
    async with dial(network, peer, streams.PLACEMENT, PLACEMENT_CODEC, network_id) as channel:
        with deadline(within_s, f"{peer} did not take a {type(message).__name__}"):
            await channel.send(message)
            await _until_closed(channel)


async def _until_closed(channel: Channel[PlacementMessage]) -> None:
    try:
        await channel.receive()
    except Disconnected:
        return  # the handler has returned, or refused it, and will not take it the second time either
