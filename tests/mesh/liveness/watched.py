"""Watching nodes of a virtual world: all connected as dialling would see to it, with a board that is gossip in one hop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from mesh.liveness.detector import State
from mesh.liveness.watch import Watch
from protocols import limits
from protocols.errors import RemoteFault, Unavailable
from protocols.ids import PeerId
from protocols.liveness import LivenessItem, key_of
from protocols.streams import Plane
from simulations.machine.clock import SeededRandomness
from simulations.machine.disk import MemoryDisk
from simulations.network.internet import NETWORK_ID, VirtualNetwork, VirtualWorld, peer_id
from tests.contracts.talk import admit, contact_of

GOSSIP_S = 0.1


class Boards:
    """What everybody has said, for whoever starts later, and the way to those who run."""

    def __init__(self, world: VirtualWorld) -> None:
        self.world = world
        self.said: dict[tuple[PeerId, str], LivenessItem] = {}
        self.open: dict[PeerId, DirectBoard] = {}


class DirectBoard:
    """Implements `mesh.liveness.watch.LivenessBoard`; nothing reaches a node that is cut off."""

    def __init__(self, boards: Boards, own: PeerId) -> None:
        self._boards = boards
        self._own = own
        self._send, self._items = trio.open_memory_channel[tuple[PeerId, LivenessItem]](1000)
        self._queue, self._to_carry = trio.open_memory_channel[LivenessItem](1000)

    def publish(self, item: LivenessItem, ttl_s: float) -> None:
        assert ttl_s in (limits.ALIVE_TTL_S, limits.TOMBSTONE_S)
        self._boards.said[self._own, key_of(item)] = item
        self._queue.send_nowait(item)

    def withdraw(self, subject: PeerId) -> None:
        self._boards.said.pop((self._own, subject), None)

    def said(self) -> list[tuple[PeerId, LivenessItem]]:
        return [(author, item) for (author, _), item in self._boards.said.items() if author != self._own]

    async def items(self) -> AsyncIterator[tuple[PeerId, LivenessItem]]:
        for each in self.said():
            yield each
        async for each in self._items:
            yield each

    async def run(self) -> None:
        self._boards.open[self._own] = self
        async with trio.open_nursery() as nursery:
            async for item in self._to_carry:
                for peer, board in [*self._boards.open.items()]:
                    if peer != self._own:
                        nursery.start_soon(self._carry, board, item)

    async def _carry(self, board: DirectBoard, item: LivenessItem) -> None:
        await trio.sleep(GOSSIP_S)
        await self._boards.world.links.cross(self._own, board._own)
        board._send.send_nowait((self._own, item))


class WatchedNode:
    """One machine: its identity and disk. Its contacts change with every start."""

    def __init__(self, boards: Boards, number: int) -> None:
        self.boards = boards
        self.peer = peer_id(number)
        self.disk = MemoryDisk()
        self.starts = 0
        self.network: VirtualNetwork = boards.world.network(self.peer)
        self.scope = trio.CancelScope()

    @asynccontextmanager
    async def up(self, nodes: Sequence[WatchedNode]) -> AsyncIterator[Watch]:
        """A process; leaving the context kills it."""
        self.starts += 1
        self.network = self.boards.world.network(self.peer)
        randomness = SeededRandomness(hash((self.peer, self.starts)) & 0xFFFF)
        board = DirectBoard(self.boards, self.peer)
        watch = Watch(self.network, NETWORK_ID, self.disk, randomness, board)
        others = [node for node in nodes if node is not self]
        watch.set_candidates([node.peer for node in others])
        async with self.network.run(), trio.open_nursery() as nursery:
            admit(self.network, *(node.peer for node in others))
            nursery.start_soon(board.run)
            await nursery.start(watch.run)
            nursery.start_soon(self._keep_connected, others)
            yield watch
            self.boards.open.pop(self.peer, None)
            nursery.cancel_scope.cancel()

    async def _keep_connected(self, others: Sequence[WatchedNode]) -> None:
        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(self._keep_connected_to, node)

    async def _keep_connected_to(self, node: WatchedNode) -> None:
        while True:
            try:
                if node.starts:
                    self.network.learn(contact_of(node.network, node.starts))
                    with trio.move_on_after(2.0):
                        await self.network.connect(node.peer, Plane.CONTROL)
            except (Unavailable, RemoteFault, KeyError):
                pass  # tried again, as dialling does
            await trio.sleep(limits.REDIAL_S_MIN)


async def until_state(watch: Watch, peer: PeerId, state: State, within_s: float) -> None:
    with trio.fail_after(within_s), watch.subscribe() as changes:
        while watch.state(peer) is not state:
            await anext(changes)
