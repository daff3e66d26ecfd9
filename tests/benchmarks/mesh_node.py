"""One node of a measured mesh, without inference: the network, gossip and the failure detector of a daemon.

    python -m tests.benchmarks.mesh_node NUMBER HOME

It says {"contact"} first and then reads the contacts of all from stdin, as a JSON list. After that it says every change of a
member's state as {"peer", "state", "at_s"}, where `at_s` is the monotonic clock of the whole machine, and answers every
further line on stdin by {"cpu_s", "states"}. It ends with its stdin.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog
import trio

from mesh.gossip.driver import Gossip
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.members.detector import State
from mesh.members.gossip_board import GossipBoard, check_liveness
from mesh.members.identity import identity_from_keys
from mesh.members.watch import Watch
from node.clock import SystemClock
from node.disk import FolderDisk, SystemRandomness
from protocols import limits
from protocols.errors import RemoteFault, Unavailable
from protocols.gossip import Topic
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.streams import Plane
from tests.contracts.talk import ListedDoor, contact_of

NETWORK = NetworkId("be" * 16)
LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))


def say(what: dict[str, object]) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


async def lines() -> AsyncIterator[bytes]:
    """Of stdin."""
    held = bytearray()
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        async for chunk in stream:
            held += chunk
            *whole, rest = held.split(b"\n")
            held = bytearray(rest)
            for line in whole:
                yield bytes(line)


class MeshNode:
    """The composition; `number` makes the identity."""

    def __init__(self, number: int, home: Path) -> None:
        seed = hashlib.sha256(f"mesh node {number}".encode()).digest()
        self.identity = identity_from_keys(seed, hashlib.sha256(seed).digest())
        self.network = Libp2pNetwork(self.identity, NETWORK, LOOPBACK)
        self.members: frozenset[PeerId] = frozenset()
        clock, randomness = SystemClock(), SystemRandomness()
        self.gossip = Gossip(
            self.network,
            NETWORK,
            clock,
            randomness,
            self.identity,
            lambda peer: peer in self.members,
            {Topic.LIVENESS: check_liveness},
        )
        board = GossipBoard(self.gossip, self.network.peer)
        self.watch = Watch(self.network, NETWORK, FolderDisk(home), randomness, board)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[trio.Nursery]:
        async with self.network.run(), trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()

    async def join(self, contacts: list[Contact], nursery: trio.Nursery) -> None:
        others = [contact for contact in contacts if contact.peer != self.network.peer]
        self.members = frozenset(contact.peer for contact in others)
        for contact in others:
            self.network.learn(contact)
        self.network.guard(ListedDoor(self.members))
        self.watch.set_candidates(self.members)
        nursery.start_soon(self._report)
        await nursery.start(self.gossip.run)
        await nursery.start(self.watch.run)
        for contact in others:
            nursery.start_soon(self._keep_connected, contact.peer)

    async def _report(self) -> None:
        with self.watch.subscribe() as changes:
            async for change in changes:
                at_s = time.monotonic()
                say({"peer": change.peer, "state": self.watch.state(change.peer).name, "at_s": at_s})
                living = [peer for peer, state in self.watch.states().items() if state <= State.SUSPECT]
                self.gossip.set_candidates(living)

    async def _keep_connected(self, peer: PeerId) -> None:
        """In the place of dialling: the lower id at once, the other a moment later."""
        await trio.sleep(0.0 if self.network.peer < peer else 1.0)
        while True:
            try:
                with trio.move_on_after(limits.DIAL_S):
                    await self.network.connect(peer, Plane.CONTROL)
            except (Unavailable, RemoteFault):
                pass
            await trio.sleep(limits.REDIAL_S_MAX if self.watch.state(peer) is State.DEAD else 1.0)


async def main(number: int, home: Path) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    node = MeshNode(number, home)
    async with node.run() as nursery:
        contact = contact_of(node.network, sequence=time.time_ns() // 1_000_000)
        say({"contact": base64.b64encode(msgspec.msgpack.encode(contact)).decode()})
        has_joined = False
        async for line in lines():
            if not has_joined:
                packed = msgspec.json.decode(line, type=list[str])
                contacts = [msgspec.msgpack.decode(base64.b64decode(one), type=Contact) for one in packed]
                await node.join(contacts, nursery)
                has_joined = True
            states = {peer: state.name for peer, state in node.watch.states().items()}
            say({"cpu_s": time.process_time(), "states": states})


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]))
