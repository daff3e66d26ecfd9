"""The data plane of sessions between two virtual nodes: order, credits, and frames that need not wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from inference.sessions.relay import GiveBack, Outlet, Relay
from protocols import limits
from protocols.errors import Unavailable
from protocols.ids import SessionId
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from simulations.network.internet import NETWORK_ID, VirtualNetwork, VirtualWorld
from tests.contracts.talk import introduce

SESSION = SessionId("5e" * 16)
WIDTH = 10_000  # rows of 40 kB: six fill the window of a stream, before the credits are spent


@dataclass
class Pair:
    """Two nodes, and what the stage on the second was given."""

    world: VirtualWorld
    networks: tuple[VirtualNetwork, VirtualNetwork]
    relays: tuple[Relay, Relay]
    taken: list[Frame] = field(default_factory=list)
    give_back: list[GiveBack] = field(default_factory=list)

    def deliver(self, frame: Frame, give_back: GiveBack) -> None:
        self.taken.append(frame)
        self.give_back.append(give_back)

    @property
    def positions(self) -> list[int]:
        return [frame.header.position for frame in self.taken]


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[Pair, Outlet]]:
    world = VirtualWorld(latency_s=0.01)
    here, there = world.network(), world.network()
    pair = Pair(world, (here, there), (Relay(here, NETWORK_ID), Relay(there, NETWORK_ID)))
    async with here.run(), there.run(), trio.open_nursery() as nursery:
        introduce(here, there)
        for relay in pair.relays:
            await nursery.start(relay.run)
        pair.relays[1].register(SESSION, 1, pair.deliver)
        outlet = pair.relays[0].outlet(there.peer, SESSION, 1, 0)
        yield pair, outlet
        outlet.close()
        nursery.cancel_scope.cancel()


def row(position: int) -> Frame:
    header = Header(
        Kind.DECODE, SESSION, 0, 1, position, 1, WIDTH, position, Numerics.EXACT, DType.F32, sample=True
    )
    return Frame(header, (position,), bytes([position]) * (4 * WIDTH))


async def test_a_row_does_not_wait_once_its_stream_is_open(autojump_clock: MockClock) -> None:
    async with open_pair() as (pair, outlet):
        assert not outlet.send_nowait(row(0))
        assert outlet.credits == limits.CREDITS_PER_SESSION
        await outlet.send(row(0))
        assert outlet.send_nowait(row(1))
        await trio.sleep(1)
        assert [(frame.header, bytes(frame.body)) for frame in pair.taken] == [
            (row(at).header, row(at).body) for at in range(2)
        ]


async def test_rows_keep_their_order_and_credits_where_the_stream_is_full(autojump_clock: MockClock) -> None:
    async with open_pair() as (pair, outlet):
        await outlet.send(row(0))
        sent = 1
        while outlet.send_nowait(row(sent)):
            sent += 1
        assert 1 < sent < limits.CREDITS_PER_SESSION
        assert outlet.credits == limits.CREDITS_PER_SESSION - sent
        for position in range(sent, limits.CREDITS_PER_SESSION):
            await outlet.send(row(position))
        assert not outlet.send_nowait(row(limits.CREDITS_PER_SESSION))
        await trio.sleep(1)
        pair.give_back[0](0, 1)
        await outlet.send(row(limits.CREDITS_PER_SESSION))
        await trio.sleep(1)
        assert pair.positions == [*range(limits.CREDITS_PER_SESSION + 1)]


async def test_a_row_for_a_lost_node_is_refused_at_once(autojump_clock: MockClock) -> None:
    async with open_pair() as (pair, outlet):
        await outlet.send(row(0))
        pair.world.kill(pair.networks[1].peer)
        await trio.sleep(60)
        with pytest.raises(Unavailable):
            outlet.send_nowait(row(1))
