"""The board without gossip: every node tells every member that is up what it holds, after every change and when it comes up.

One task per member sends one edition after the other, each on a stream of its own whose end says that it was taken: so an older
edition can't overtake a newer one, and a member that can't be reached is told again until it is down.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from inference.placement.board import Down, Hear
from inference.placement.members import Members
from mesh.members.membership import MemberDown, MemberUp
from mesh.nursery import peer_nursery
from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Disconnected, Overloaded, RemoteFault, Unavailable
from protocols.ids import NetworkId, PeerId
from protocols.placement import PLACEMENT_CODEC, Claims, PlacementMessage
from protocols.seams import Network

log = structlog.get_logger()

RETRY_S: Final = 1.0


class DirectBoard:
    """Implements `inference.placement.board.ClaimBoard`; what others tell comes in by `took`."""

    def __init__(self, network: Network, network_id: NetworkId, members: Members) -> None:
        self._network = network
        self._network_id = network_id
        self._members = members
        self._own = Claims(())
        self._edition = 0
        self._changed = trio.Event()
        self._hear: Hear = _unheard
        self._down: Down = _unseen

    def listen(self, hear: Hear, down: Down) -> None:
        self._hear, self._down = hear, down

    def publish(self, own: Claims) -> None:
        self._own = own
        self._edition += 1
        self._changed.set()
        self._changed = trio.Event()

    def took(self, holder: PeerId, told: Claims) -> None:
        """A member told this node directly. Raises what `Hear` raises."""
        self._hear(holder, told)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            try:
                await self._follow_members()
            except Overloaded:
                log.warning("placement fell behind the events of members and starts over")
                continue
            return

    # Members ---------------------------------------------------------------------------------------------------------

    async def _follow_members(self) -> None:
        tasks: dict[PeerId, trio.CancelScope] = {}
        with self._members.subscribe() as events:
            async with peer_nursery() as nursery:
                for contact in self._members.members():
                    self._heard_of(contact.peer, tasks, nursery)
                try:
                    async for event in events:
                        match event:
                            case MemberUp(peer) | MemberDown(peer):
                                self._heard_of(peer, tasks, nursery)
                finally:
                    nursery.cancel_scope.cancel()

    def _heard_of(self, peer: PeerId, tasks: dict[PeerId, trio.CancelScope], nursery: trio.Nursery) -> None:
        """Bring the table and the telling in line with whether the peer is up now."""
        if peer == self._network.peer:
            return
        if peer in tasks:
            tasks.pop(peer).cancel()  # told anew after every coming up
        if self._members.is_up(peer):
            tasks[peer] = trio.CancelScope()
            nursery.start_soon(self._keep_told, peer, tasks[peer])
        else:
            self._down(peer)

    # Telling ---------------------------------------------------------------------------------------------------------

    async def _keep_told(self, peer: PeerId, scope: trio.CancelScope) -> None:
        told = None
        with scope:
            while True:
                if told == self._edition:
                    await self._changed.wait()
                    continue
                edition = self._edition
                if await self._tell(peer, self._own):
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


def _unheard(_holder: PeerId, _told: Claims) -> None:
    """Before anybody listens."""


def _unseen(_peer: PeerId) -> None:
    """Before anybody listens."""
