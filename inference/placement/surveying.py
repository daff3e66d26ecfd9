"""Asks nodes what they could hold, all at once; who does not answer in time has no part in the plan."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from inference.placement.events import Event
from mesh.rpc import ask, dial
from protocols import limits, streams
from protocols.errors import RemoteFault, Unavailable
from protocols.ids import NetworkId, PeerId
from protocols.placement import PLACEMENT_CODEC, Capacity, Survey
from protocols.seams import Network


async def ask_all(
    network: Network,
    network_id: NetworkId,
    peers: Collection[PeerId],
    survey: Survey,
    on_event: Callable[[Event], None],
) -> dict[PeerId, Capacity]:
    """The capacities of those that answered, by peer id in order; `on_event` hears `surveyed` and `unreachable`."""
    capacities: dict[PeerId, Capacity] = {}

    async def ask_one(peer: PeerId) -> None:
        try:
            capacity = await _ask(network, network_id, peer, survey)
        except (Unavailable, RemoteFault) as error:
            on_event({"event": "unreachable", "peer": peer, "reason": str(error)})
            return
        capacities[peer] = capacity
        on_event(
            {
                "event": "surveyed",
                "peer": peer,
                "layer_ms": round(capacity.layer_ms, 3),
                "free_bytes": capacity.free_bytes,
                "layers_max": capacity.layers_max,
            }
        )

    async with trio.open_nursery() as nursery:
        for peer in sorted(peers):
            nursery.start_soon(ask_one, peer)
    return dict(sorted(capacities.items()))


async def _ask(network: Network, network_id: NetworkId, peer: PeerId, survey: Survey) -> Capacity:
    async with dial(network, peer, streams.PLACEMENT, PLACEMENT_CODEC, network_id) as channel:
        reply = await ask(channel, survey, Capacity, within_s=limits.SURVEY_S)
    assert isinstance(reply, Capacity)
    return reply
