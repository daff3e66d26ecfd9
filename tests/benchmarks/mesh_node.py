"""One node of a measured mesh, without inference: the network and `Members` of a daemon, and the board of its claims.

    python -m tests.benchmarks.mesh_node HOME

It takes orders as JSON lines on stdin, the first of which is `Start`, and ends with its stdin. It answers `Start` by {"peer"} once
it is up, `MakeInvite` by {"invite"} and `Measure` by {"cpu_s"}. Of itself it says every change of a member's state as {"peer",
"state", "at_s"}, where `at_s` is the monotonic clock of the whole machine, and {"looked_up_ms"} when it knows what it was to find.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from inference.placement.claims import ClaimTable
from inference.placement.gossiping import GossipBoard, check_claim, check_note
from mesh.admission.belonging import decide_network
from mesh.admission.identity import load_identity
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.members.driver import Members, Profile
from node.clock import SystemClock
from node.disk import FolderDisk, SystemRandomness
from protocols.gossip import Topic
from protocols.ids import ModelDigest, NetworkId, PeerId
from protocols.placement import Claim, Claims, LayerRange, ModelNote
from protocols.streams import Plane

LOOPBACK: Final = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))
MODEL: Final = ModelDigest("1f" * 32)
RANGE_LAYERS: Final = 2
INVITE_S: Final = 3600.0


class Start(msgspec.Struct, frozen=True, tag="start"):
    """`is_member`: run `Members`; else the network listens and that is all. `ranges`: of the model, to be looked up on joining."""

    invite: str | None = None
    is_member: bool = True
    ranges: int = 0


class MakeInvite(msgspec.Struct, frozen=True, tag="invite"):
    pass


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    pass


class Hold(msgspec.Struct, frozen=True, tag="hold"):
    """Claim range `number` of the model, and the one behind it as a standby, of so many ranges."""

    number: int
    ranges: int


Order = Start | MakeInvite | Measure | Hold


def say(what: dict[str, object]) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


async def read_orders() -> AsyncIterator[Order]:
    """From stdin."""
    held = bytearray()
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        async for chunk in stream:
            held += chunk
            *whole, rest = held.split(b"\n")
            held = bytearray(rest)
            for line in whole:
                yield msgspec.json.decode(line, type=Order)


class Mesh:
    """The part of a node that is off for the baseline: membership, gossip, and what claims come in over it."""

    def __init__(self, network: Libp2pNetwork, members: Members) -> None:
        self.members = members
        self._own = network.peer
        self._board = GossipBoard(members, network.peer)
        self._table = ClaimTable()
        self._open: dict[LayerRange, None] = {}
        self._found_ms: list[float] = []
        self._since_s = 0.0

    async def run(self, start: Start, nursery: trio.Nursery) -> None:
        """Returns when it is up, and has joined if it was to."""
        nursery.start_soon(self._report)
        await nursery.start(self.members.run)
        if start.invite is not None:
            await self.members.join(start.invite)
        self._since_s = time.monotonic()
        self._open = {range_of(number): None for number in range(start.ranges)}
        self._board.listen(self._hear, self._table.down)
        await nursery.start(self._board.run)

    def hold(self, order: Hold) -> None:
        ranges = [(order.number, False), ((order.number + 1) % order.ranges, True)]
        claims = [
            Claim(self._own, MODEL, range_of(number), is_standby, "bf16", "exact", "cpu", 1.0, 1, 1)
            for number, is_standby in ranges
        ]
        note = ModelNote(MODEL, "measured", order.ranges * RANGE_LAYERS)
        self._board.publish(Claims(tuple(claims), (note,)))

    def _hear(self, holder: PeerId, told: Claims) -> None:
        self._table.tell(holder, told)
        found = [layers for layers in self._open if self._table.serving(MODEL, layers)]
        for layers in found:
            del self._open[layers]
            self._found_ms.append((time.monotonic() - self._since_s) * 1e3)
        if found and not self._open:
            say({"looked_up_ms": self._found_ms})

    async def _report(self) -> None:
        with self.members.watch.subscribe() as changes:
            async for change in changes:
                at_s = time.monotonic()
                say({"peer": change.peer, "state": self.members.state(change.peer).name, "at_s": at_s})


def range_of(number: int) -> LayerRange:
    return LayerRange(number * RANGE_LAYERS, (number + 1) * RANGE_LAYERS)


async def main(home: Path) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    orders = read_orders()
    start = await anext(orders)
    assert isinstance(start, Start)
    clock, randomness, disk = SystemClock(), SystemRandomness(), FolderDisk(home)
    identity = load_identity(disk, randomness, clock.wall())
    network_id: NetworkId = decide_network(disk, identity, randomness, clock.wall(), start.invite)
    network = Libp2pNetwork(identity, network_id, LOOPBACK)
    async with network.run(), trio.open_nursery() as nursery:
        mesh = None
        if start.is_member:
            validators = {Topic.CLAIMS: check_claim, Topic.MODELS: check_note}
            members = Members(network, clock, disk, randomness, identity, Profile(home.name), validators)
            mesh = Mesh(network, members)
            await mesh.run(start, nursery)
        say({"peer": network.peer})
        async for order in orders:
            match order:
                case MakeInvite() if mesh is not None:
                    say({"invite": mesh.members.invite(1, INVITE_S)})
                case Hold() if mesh is not None:
                    mesh.hold(order)
                case _:
                    say({"cpu_s": time.process_time()})
        if mesh is not None:
            await mesh.members.leave()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
