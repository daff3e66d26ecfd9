"""Members of a virtual world, as a daemon runs them: a home that outlives its process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from mesh.admission.belonging import decide_network
from mesh.admission.identity import identity_from_keys
from mesh.members.driver import Members, Profile
from mesh.members.membership import MemberEvent
from protocols.errors import UserError
from protocols.ids import NetworkId, PeerId
from protocols.seams import Network
from protocols.streams import Plane
from simulations.machine.clock import EPOCH_S, SeededRandomness, VirtualClock
from simulations.machine.disk import MemoryDisk
from simulations.network.internet import NETWORK_ID, VirtualWorld

HOUR_S = 3600.0


class Home:
    """One machine: its identity and disk."""

    def __init__(self, world: VirtualWorld, number: int) -> None:
        self.world = world
        self.number = number
        self.disk = MemoryDisk()
        self.clock = VirtualClock()
        self.identity = identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32, EPOCH_S)
        self.peer: PeerId = self.identity.peer
        self.starts = 0
        self.network = self.make_network(NETWORK_ID)

    def make_network(self, network_id: NetworkId) -> Network:
        return self.world.network(
            self.peer, network_id, lambda: tuple(key.public for key in self.identity.statics)
        )

    @asynccontextmanager
    async def up(self, invite: str | None = None) -> AsyncIterator[Members]:
        """A process with this home; leaving the context is a crash, unless `leave` was called."""
        self.starts += 1
        randomness = SeededRandomness(100 * self.number + self.starts)
        network_id = decide_network(self.disk, self.identity, randomness, self.clock.wall(), invite)
        network = self.make_network(network_id)
        members = Members(
            network, self.clock, self.disk, randomness, self.identity, Profile(f"node {self.number}")
        )
        refusal: UserError | None = None
        async with network.run(), trio.open_nursery() as nursery:
            await nursery.start(members.run)
            try:
                if invite is not None:
                    await members.join(invite)
            except UserError as error:
                refusal = error  # raised outside the nurseries, which would wrap it
            else:
                self.network = network
                yield members
            nursery.cancel_scope.cancel()
        if refusal:
            raise refusal


async def settle(seconds: float = 10.0) -> None:
    """Let virtual time pass."""
    await trio.sleep(seconds)


def ups(members: Members) -> set[PeerId]:
    return {contact.peer for contact in members.members() if members.is_up(contact.peer)}


async def next_event(events: AsyncIterator[MemberEvent], within_s: float) -> MemberEvent:
    with trio.fail_after(within_s):
        return await anext(events)


def planes_to(network: Network, peer: PeerId) -> set[Plane]:
    return {info.plane for info in network.connections() if info.peer == peer}
