"""Two virtual networks that talk, for tests of what lies between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from protocols import streams
from protocols.seams import Stream
from protocols.streams import StreamKind
from simulations.network.internet import VirtualWorld
from simulations.network.network import VirtualNetwork
from tests.contracts.talk import introduce


@dataclass
class Pair:
    """`heard` is what arrived at `two` over all streams, with when."""

    world: VirtualWorld
    one: VirtualNetwork
    two: VirtualNetwork
    heard: list[tuple[float, bytes]] = field(default_factory=list)

    async def open(self, kind: StreamKind = streams.MEMBERS) -> Stream:
        return await self.one.open_stream(self.two.peer, kind)

    async def hear(self, stream: Stream) -> None:
        """A handler that says nothing."""
        while data := await stream.receive():
            self.heard.append((trio.current_time(), data))


@asynccontextmanager
async def pair(world: VirtualWorld) -> AsyncIterator[Pair]:
    """Members of one mesh; `two` hears what comes on MEMBERS and WEIGHTS."""
    made = Pair(world, world.network(), world.network())
    async with made.one.run(), made.two.run():
        introduce(made.one, made.two)
        made.two.handle(streams.MEMBERS, made.hear)
        made.two.handle(streams.WEIGHTS, made.hear)
        yield made
