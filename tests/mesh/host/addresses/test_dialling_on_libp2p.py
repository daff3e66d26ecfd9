"""Several addresses of one peer on the real network: who is dialled, who is let go, and who is not dialled at all."""

from __future__ import annotations

import ipaddress
import itertools
from functools import partial

import msgspec
import pytest
import trio

from mesh.admission.identity import identity_from_keys
from mesh.host.libp2p_network import Libp2pNetwork
from protocols.addresses import IpAddress
from protocols.errors import NoRoute, Unavailable
from protocols.ids import NetworkId
from protocols.membership import Contact
from protocols.streams import Plane
from tests.contracts.talk import admit, contact_of, introduce, running

NETWORK = NetworkId("ab" * 16)
LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))
SEEDS = itertools.count(1)


class Names:
    """One host name, of this machine."""

    async def addresses(self, kind: str, host: str) -> tuple[IpAddress, ...]:
        await trio.lowlevel.checkpoint()
        if host != "here.example":
            raise NoRoute(f"{host} is not known")
        return (ipaddress.ip_address("127.0.0.1"),)


def make() -> Libp2pNetwork:
    number = next(SEEDS)
    identity = identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)
    return Libp2pNetwork(identity, NETWORK, LOOPBACK, names=Names())


def at(contact: Contact, *control: str) -> Contact:
    return msgspec.structs.replace(contact, control=control, sequence=contact.sequence + 1)


class SilentListener:
    """Accepts, reads and says nothing; notes who has hung up."""

    def __init__(self) -> None:
        self.accepted = 0
        self.ended = trio.Event()

    async def __call__(self, stream: trio.SocketStream) -> None:
        self.accepted += 1
        try:
            while await stream.receive_some(65_536):
                pass
        except trio.BrokenResourceError:
            pass
        self.ended.set()


async def silent_listener(nursery: trio.Nursery) -> tuple[SilentListener, str]:
    handler = SilentListener()
    [listener] = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
    return handler, f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"


async def test_a_silent_address_costs_a_quarter_of_a_second_and_is_hung_up_on() -> None:
    one, two = make(), make()
    async with running(one, two), trio.open_nursery() as nursery:
        introduce(one, two)
        silent, dead = await silent_listener(nursery)
        [good] = two.addresses(Plane.CONTROL)
        one.learn(at(contact_of(two), dead, good))
        began = trio.current_time()
        await one.connect(two.peer, Plane.CONTROL)
        assert trio.current_time() - began < 3, "a dial that is waited for takes five seconds"
        with trio.fail_after(5):
            await silent.ended.wait()
        [connection] = one.connections()
        assert (connection.dialled, connection.address) == (True, good)
        await one.disconnect(two.peer)
        while one.connections():
            await trio.sleep(0.01)
        await one.connect(two.peer, Plane.CONTROL)
        assert silent.accepted == 1, "where it answered last it is dialled first"
        nursery.cancel_scope.cancel()


async def test_a_name_is_dialled_where_it_leads() -> None:
    one, two = make(), make()
    async with running(one, two):
        introduce(one, two)
        port = two.addresses(Plane.CONTROL)[0].rpartition("/")[2]
        named = f"/dns4/here.example/tcp/{port}"
        one.learn(at(contact_of(two), "/dns4/gone.example/tcp/1", named))
        await one.connect(two.peer, Plane.CONTROL)
        assert [connection.address for connection in one.connections()] == [named]


async def test_a_node_does_not_dial_itself_whatever_a_contact_says() -> None:
    one, two = make(), make()
    async with running(one, two):
        introduce(one, two)
        own = one.addresses(Plane.CONTROL)[0]
        other_plane = one.addresses(Plane.DATA)[0]
        port = own.rpartition("/")[2]
        one.learn(at(contact_of(two), own, other_plane, f"/dns4/here.example/tcp/{port}"))
        with pytest.raises(NoRoute):
            await one.connect(two.peer, Plane.CONTROL)
        assert not one.faults, "an inbound handshake would have failed here"


async def test_the_address_of_another_member_is_not_dialled_while_that_one_is_there() -> None:
    one, two, three = make(), make(), make()
    async with running(one, two, three):
        introduce(one, two, three)
        await one.connect(two.peer, Plane.CONTROL)
        one.learn(at(contact_of(three), *two.addresses(Plane.CONTROL)))
        with pytest.raises(NoRoute):
            await one.connect(three.peer, Plane.CONTROL)
        assert not two.faults


async def test_a_contact_that_names_a_strangers_address_is_dialled_ever_more_rarely() -> None:
    one, two, stranger = make(), make(), make()
    async with running(one, two, stranger):
        introduce(one, two)
        admit(stranger)
        wrong = at(contact_of(two), *stranger.addresses(Plane.CONTROL))
        one.learn(wrong)
        for _ in range(20):
            with pytest.raises(Unavailable):
                await one.connect(two.peer, Plane.CONTROL)
        assert sum(stranger.faults.values()) < 4, "twenty tries in a moment"
        one.learn(at(wrong, *two.addresses(Plane.CONTROL)))
        await one.connect(two.peer, Plane.CONTROL)
