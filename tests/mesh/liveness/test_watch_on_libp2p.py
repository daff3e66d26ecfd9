"""The detector with real gossip over real libp2p on loopback: what the virtual network promises is what a daemon gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from mesh.gossip.driver import Gossip
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.liveness.detector import State
from mesh.liveness.gossip_board import GossipBoard, check_liveness
from mesh.liveness.watch import Watch
from protocols.gossip import Topic
from protocols.streams import Plane
from simulations.machine.clock import SeededRandomness
from simulations.machine.disk import MemoryDisk
from simulations.network.internet import NETWORK_ID
from tests.contracts.talk import introduce
from tests.mesh.gossip.rig import gossip_on, identity
from tests.mesh.liveness.watched import until_state

LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))
SOON_S = 20.0
PEERS = [identity(number).peer for number in range(1, 4)]


def composed(network: Libp2pNetwork, number: int, disk: MemoryDisk) -> tuple[Gossip, Watch]:
    gossip = gossip_on(network, number, validators={Topic.LIVENESS: check_liveness})
    board = GossipBoard(gossip, network.peer)
    watch = Watch(network, NETWORK_ID, disk, SeededRandomness(number), board)
    watch.set_candidates(PEERS)
    return gossip, watch


@asynccontextmanager
async def up(network: Libp2pNetwork, number: int, disk: MemoryDisk) -> AsyncIterator[Watch]:
    """Its process but for the network, which has to run before others know where."""
    gossip, watch = composed(network, number, disk)
    async with trio.open_nursery() as nursery:
        await nursery.start(gossip.run)
        gossip.set_candidates(PEERS)
        await nursery.start(watch.run)
        yield watch
        nursery.cancel_scope.cancel()


async def all_alive(networks: list[Libp2pNetwork], watches: list[Watch]) -> None:
    for network, watch in zip(networks, watches, strict=True):
        for peer in (each.peer for each in networks if each is not network):
            await network.connect(peer, Plane.CONTROL)
            await until_state(watch, peer, State.ALIVE, SOON_S)


async def test_an_end_is_known_and_a_restart_is_no_ghost() -> None:
    disks = [MemoryDisk() for _ in PEERS]
    networks = [Libp2pNetwork(identity(number), NETWORK_ID, LOOPBACK) for number in (1, 2)]
    async with AsyncExitStack() as stack:
        for network in networks:
            await stack.enter_async_context(network.run())
        introduce(*networks)
        watches = [
            await stack.enter_async_context(up(network, number, disk))
            for number, (network, disk) in enumerate(zip(networks, disks, strict=False), 1)
        ]
        incarnations = []
        for _ in range(2):
            third = Libp2pNetwork(identity(3), NETWORK_ID, LOOPBACK)
            async with third.run():
                introduce(*networks, third)
                async with up(third, 3, disks[2]) as watch:
                    await all_alive([*networks, third], [*watches, watch])
                    incarnations.append(watch.incarnation)
            for watch in watches:
                await until_state(watch, third.peer, State.DEAD, SOON_S)
        assert incarnations[1] > incarnations[0]
