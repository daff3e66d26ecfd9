"""The same nodes over real libp2p on loopback: what the virtual network promises is what they get."""

from __future__ import annotations

import trio

from mesh.host.libp2p_network import Libp2pNetwork
from mesh.members.driver import Members
from mesh.members.membership import MemberDown, MemberUp
from protocols.ids import NetworkId
from protocols.streams import Plane
from simulations.network.internet import VirtualWorld
from tests.mesh.members.rig import HOUR_S, Home, next_event, planes_to, ups

LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))
SOON_S = 20.0


class RealHome(Home):
    """A home whose network is libp2p's; the virtual world stays unused."""

    def __init__(self, number: int) -> None:
        super().__init__(VirtualWorld(), number)

    def make_network(self, network_id: NetworkId) -> Libp2pNetwork:
        return Libp2pNetwork(self.identity, network_id, LOOPBACK)


async def await_all_up(members: Members, others: set[str]) -> None:
    with trio.fail_after(SOON_S), members.subscribe() as events:
        while ups(members) != others:
            await anext(events)


async def test_three_join_lose_one_and_get_it_back_on_other_ports() -> None:
    one, two, three = (RealHome(number) for number in (1, 2, 3))
    async with one.up() as first, three.up(first.invite(1, HOUR_S)) as third:
        async with two.up(first.invite(1, HOUR_S)) as second:
            everybody = {one.peer, two.peer, three.peer}
            for home, members in ((one, first), (two, second), (three, third)):
                await await_all_up(members, everybody - {home.peer})
            before = second.contact()
            events = first.subscribe()
        assert await next_event(events, SOON_S) == MemberDown(two.peer)
        async with two.up() as second:
            assert await next_event(events, SOON_S) == MemberUp(two.peer)
            await await_all_up(third, {one.peer, two.peer})
            await await_all_up(second, {one.peer, three.peer})
            assert second.contact().control != before.control
            await second.leave()
            assert await next_event(events, SOON_S) == MemberDown(two.peer)


async def test_both_planes_are_connected_soon_after_joining() -> None:
    one, two = RealHome(1), RealHome(2)
    async with one.up() as first:
        events = one.network.events()
        async with two.up(first.invite(1, HOUR_S)):
            with trio.fail_after(SOON_S):
                while planes_to(one.network, two.peer) != set(Plane):
                    await anext(events)
