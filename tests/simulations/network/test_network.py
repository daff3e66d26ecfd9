"""The virtual network keeps the promises of the real one, and its world can break links as the real one does."""

from __future__ import annotations

import pytest
import trio

from protocols import limits, streams
from protocols.errors import Disconnected, TimedOut, Unavailable
from protocols.ids import NetworkId
from protocols.seams import PeerDown, PeerUp
from protocols.streams import Plane
from simulations.network.internet import VirtualWorld
from tests.contracts.network_contract import MakeNetwork, NetworkContract
from tests.contracts.talk import admit, await_events, echo, exchange, expect_end, introduce, members, running
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


class TestVirtualNetwork(NetworkContract):
    @pytest.fixture
    def make_network(self) -> MakeNetwork:
        return VirtualWorld().network


async def test_latency_is_felt_once_each_way() -> None:
    world = VirtualWorld(latency_s=0.4)
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.MEMBERS, echo)
        stream = await one.open_stream(two.peer, streams.MEMBERS)
        world.links.set_latency(one.peer, two.peer, 0.25)
        start = trio.current_time()
        await stream.send(b"x")
        await stream.receive()
        assert trio.current_time() - start == pytest.approx(0.5)


async def test_silence_is_silent_and_what_was_sent_arrives_after_it() -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.MEMBERS, echo)
        stream = await one.open_stream(two.peer, streams.MEMBERS)
        world.silence(two.peer)
        await stream.send(b"anybody?")
        with trio.move_on_after(10) as waited:
            await stream.receive()
        assert waited.cancelled_caught
        world.heal()
        assert await stream.receive() == b"anybody?"
        await stream.close()


async def test_a_cut_link_can_not_be_dialled_and_the_rest_of_the_mesh_can() -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network(), world.network()) as (one, two, three):
        world.cut(one.peer, two.peer)
        for network in (two, three):
            network.handle(streams.MEMBERS, echo)
        start = trio.current_time()
        with pytest.raises(TimedOut):
            await one.connect(two.peer, Plane.CONTROL)
        assert trio.current_time() - start == pytest.approx(limits.DIAL_S)
        assert await exchange(one, three, streams.MEMBERS, b"hi") == b"hi"


async def test_one_side_that_gives_up_a_silent_peer_is_told_to_it_after_healing() -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.MEMBERS, echo)
        stream = await one.open_stream(two.peer, streams.MEMBERS)
        seen_by_two = two.events()
        world.silence(two.peer)
        await one.disconnect(two.peer)
        await expect_end(stream)
        assert two.connections()
        world.heal()
        await await_events(seen_by_two, PeerDown(one.peer, Plane.CONTROL))
        assert not two.connections()


async def test_a_killed_node_is_reset_at_the_others_and_comes_back_elsewhere() -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.MEMBERS, echo)
        stream = await one.open_stream(two.peer, streams.MEMBERS)
        events = one.events()
        world.kill(two.peer)
        await await_events(events, PeerDown(two.peer, Plane.CONTROL))
        await expect_end(stream)
        with pytest.raises(Disconnected):
            await one.connect(two.peer, Plane.CONTROL)
        async with running(world.network(two.peer)) as (again,):
            introduce(one, again)
            again.handle(streams.MEMBERS, echo)
            assert await exchange(one, again, streams.MEMBERS, b"back") == b"back"


async def test_another_network_is_refused_in_the_handshake() -> None:
    world = VirtualWorld()
    foreign = world.network(network_id=NetworkId("f" * 32))
    async with members(world.network(), foreign) as (one, two):
        with pytest.raises(Disconnected):
            await one.connect(two.peer, Plane.CONTROL)


async def test_a_stranger_that_does_nothing_is_disconnected() -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, stranger):
        admit(one, strangers=True)
        events = stranger.events()
        await stranger.connect(one.peer, Plane.CONTROL)
        start = trio.current_time()
        await await_events(events, PeerUp(one.peer, Plane.CONTROL))
        with trio.fail_after(limits.STRANGER_S + 1):
            assert await anext(events) == PeerDown(one.peer, Plane.CONTROL)
        assert trio.current_time() - start == pytest.approx(limits.STRANGER_S, abs=0.01)


async def test_an_opening_that_is_never_answered_times_out() -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.MEMBERS, echo)
        await one.connect(two.peer, Plane.CONTROL)
        world.silence(two.peer)
        with pytest.raises(Unavailable):
            await one.open_stream(two.peer, streams.MEMBERS)
        world.heal()
        assert await exchange(one, two, streams.MEMBERS, b"now") == b"now"
