"""Real gossip drivers over any network, with real signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from mesh.admission.identity import Identity, identity_from_keys
from mesh.gossip.driver import Gossip
from mesh.gossip.intake import Validator
from protocols.gossip import Topic
from protocols.ids import PeerId
from protocols.seams import Network
from simulations.machine.clock import SeededRandomness, VirtualClock
from simulations.network.internet import NETWORK_ID
from tests.contracts.talk import introduce

EVERYBODY: Callable[[PeerId], bool] = lambda _: True  # noqa: E731


def identity(number: int) -> Identity:
    return identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)


def gossip_on(
    network: Network,
    number: int,
    is_member: Callable[[PeerId], bool] = EVERYBODY,
    validators: Mapping[Topic, Validator] | None = None,
) -> Gossip:
    randomness = SeededRandomness(number)
    return Gossip(
        network, NETWORK_ID, VirtualClock(), randomness, identity(number), is_member, validators or {}
    )


@asynccontextmanager
async def gossiping(*networks: Network) -> AsyncIterator[list[Gossip]]:
    """All of them run, know each other and gossip while the context is open; the n-th has the n-th identity."""
    async with AsyncExitStack() as stack:
        for network in networks:
            await stack.enter_async_context(network.run())
        introduce(*networks)
        async with trio.open_nursery() as nursery:
            nodes = [gossip_on(network, number) for number, network in enumerate(networks, 1)]
            for node in nodes:
                await nursery.start(node.run)
            for node in nodes:
                node.set_candidates([network.peer for network in networks])
            yield nodes
            nursery.cancel_scope.cancel()


async def linked(*nodes: Gossip) -> None:
    """Until every one has a neighbour."""
    while not all(node.neighbours for node in nodes):
        await trio.sleep(0.01)


async def until(is_so: Callable[[], bool], within_s: float) -> float:
    """How long it took; fails if it took longer than that."""
    began = trio.current_time()
    with trio.fail_after(within_s):
        while not is_so():
            await trio.sleep(0.005)
    return trio.current_time() - began
