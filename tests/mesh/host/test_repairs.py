"""What the real network does where py-libp2p alone would not, and what it does with hostile visitors; on loopback TCP."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as XX_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as XxTransport
from multiaddr import Multiaddr

from mesh.host.handshake.negotiation import HEADER, encode
from mesh.host.handshake.noise_xk import PROTOCOL_ID
from mesh.host.libp2p_network import Libp2pNetwork
from protocols import limits, streams
from protocols.errors import Disconnected, Overloaded, RemoteFault, Unauthenticated, Unavailable, UserError
from protocols.ids import NetworkId
from protocols.membership import Contact
from protocols.seams import PeerDown, PeerUp, Stream
from protocols.streams import Plane
from tests.contracts.talk import (
    admit,
    await_events,
    contact_of,
    echo,
    exchange,
    expect_end,
    members,
    running,
    send_forever,
)
from tests.mesh.host.wires import NETWORK, identity

LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))
NOBODY = "/ip4/127.0.0.1/tcp/1"


def network(number: int, network_id: NetworkId = NETWORK, **listen: str) -> Libp2pNetwork:
    addresses = {plane: (listen.get(plane.value, LOOPBACK[plane][0]),) for plane in Plane}
    return Libp2pNetwork(identity(number), network_id, addresses)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    one, two = network(1), network(2)
    async with members(one, two):
        two.handle(streams.MEMBERS, echo)
        yield one, two


def port_of(target: Libp2pNetwork, plane: Plane = Plane.CONTROL) -> int:
    return int(target.addresses(plane)[0].rsplit("/", 1)[1])


async def still_serves(visitor: Libp2pNetwork, target: Libp2pNetwork) -> None:
    assert await exchange(visitor, target, streams.MEMBERS, b"still here") == b"still here"


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():
            await trio.sleep(0.01)


# Traps ---------------------------------------------------------------------------------------------------------------


async def test_t1_a_failing_handler_is_logged_with_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(stream: Stream) -> None:
        raise ZeroDivisionError("a bug")

    async with pair() as (one, two):
        two.handle(streams.SESSION, fail)
        with pytest.raises(Disconnected):
            await exchange(one, two, streams.SESSION, b"x")
        await until(lambda: two.faults.get("ZeroDivisionError") == 1)
        await still_serves(one, two)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "weft.host"
    assert record.exc_info is not None


async def test_t1_a_group_of_expected_errors_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_in_a_nursery(stream: Stream) -> None:
        async with trio.open_nursery():
            raise Disconnected("somebody left")

    async with pair() as (one, two):
        two.handle(streams.SESSION, fail_in_a_nursery)
        with pytest.raises(Disconnected):
            await exchange(one, two, streams.SESSION, b"x")
        await until(lambda: two.faults.get("Disconnected") == 1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_t2_connections_that_ended_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 4)
    async with pair() as (one, two):
        tasks = 0
        for number in range(12):
            await still_serves(one, two)
            await one.disconnect(two.peer)
            await until(lambda: not two._hosts[Plane.CONTROL]._swarm.get_connections())
            await until(lambda: not one._hosts[Plane.CONTROL]._swarm.get_connections())
            if number == 2:
                tasks = trio.lowlevel.current_statistics().tasks_living
        await until(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_t3_connecting_does_not_wait_for_nothing() -> None:
    async with pair() as (one, two):
        took_s = []
        for _ in range(5):
            began_s = trio.current_time()
            await one.connect(two.peer, Plane.CONTROL)
            took_s.append(trio.current_time() - began_s)
            await one.disconnect(two.peer)
        assert min(took_s) < 0.2


async def test_t4_every_address_is_tried_and_a_failure_is_not_held_against_a_peer() -> None:
    async with running(network(1), network(2)) as (one, two):
        two.handle(streams.MEMBERS, echo)
        admit(two, one.peer)
        real = contact_of(two)
        admit(one, two.peer)
        one.learn(Contact(two.peer, two.static, (NOBODY,), ()))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await one.connect(two.peer, Plane.CONTROL)
        one.learn(Contact(two.peer, two.static, (NOBODY, "no address", NOBODY, *real.control), ()))
        assert await exchange(one, two, streams.MEMBERS, b"found") == b"found"
        with pytest.raises(Unavailable, match="no data address"):
            await one.connect(two.peer, Plane.DATA)


async def test_t6_a_silent_peer_can_be_let_go_at_once() -> None:
    """Even with a writer stuck in a full socket, which a word of farewell would wait for."""
    async with running(network(1), network(2)) as (one, two), trio.open_nursery() as nursery:
        for network_ in (one, two):
            admit(network_, one.peer, two.peer)
        proxy = await nursery.start(_proxy, port_of(two, Plane.DATA))
        one.learn(Contact(two.peer, two.static, (), (f"/ip4/127.0.0.1/tcp/{proxy.port}",)))
        two.handle(streams.DECODE, _read_forever)
        events = one.events()
        stream = await one.open_stream(two.peer, streams.DECODE)
        proxy.is_silent = True
        stuck = trio.Event()

        async def send_until_stuck() -> None:
            with pytest.raises(Disconnected):
                await send_forever(stream)
            stuck.set()

        nursery.start_soon(send_until_stuck)
        await trio.sleep(0.3)
        assert not stuck.is_set()
        with trio.fail_after(1):
            await one.disconnect(two.peer)
        await await_events(events, PeerUp(two.peer, Plane.DATA), PeerDown(two.peer, Plane.DATA))
        with trio.fail_after(2):
            await stuck.wait()
        await expect_end(stream)
        nursery.cancel_scope.cancel()


async def _read_forever(stream: Stream) -> None:
    while await stream.receive():
        pass


class _Proxy:
    """Passes bytes to a port of this machine, until it is told to be silent."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.is_silent = False

    async def serve(self, inbound: trio.SocketStream) -> None:
        outbound = await trio.open_tcp_stream("127.0.0.1", self.target)
        async with outbound, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, inbound, outbound)
            nursery.start_soon(self._pass, outbound, inbound)

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data := await source.receive_some(65_536):
            if self.is_silent:
                await trio.sleep_forever()
            await sink.send_all(data)


async def _proxy(target: int, task_status: trio.TaskStatus[_Proxy]) -> None:
    proxy = _Proxy(target)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listeners[0].socket.getsockname()[1]
    task_status.started(proxy)
    await trio.serve_listeners(proxy.serve, listeners)


async def test_t8_too_many_streams_are_an_error_and_not_a_wait() -> None:
    async with pair() as (one, two):
        held = [
            await one.open_stream(two.peer, streams.MEMBERS) for _ in range(limits.STREAMS_PER_CONNECTION_MAX)
        ]
        with trio.fail_after(1), pytest.raises(Overloaded):
            await one.open_stream(two.peer, streams.MEMBERS)
        for stream in held:
            await stream.reset()
        await still_serves(one, two)


async def test_t8_a_peer_that_opens_too_many_is_refused_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.host.serving.limits", _Limits(STREAMS_PER_CONNECTION_MAX=3))
    async with pair() as (one, two):
        held = [await one.open_stream(two.peer, streams.MEMBERS) for _ in range(3)]
        with pytest.raises(Disconnected):
            await one.open_stream(two.peer, streams.MEMBERS)
        assert two.faults.get("Overloaded") == 1
        for stream in held:
            await stream.close()
        await until(lambda: all(not each.serving for each in two._connections))
        await still_serves(one, two)


class _Limits:
    """The limits, some of them changed."""

    def __init__(self, **changed: float) -> None:
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        return self._changed.get(name, getattr(limits, name))


async def test_t9_nobody_is_dialled_unasked() -> None:
    async with pair() as (one, two):
        await trio.sleep(0.2)
        assert not one.connections()
        assert not two.connections()


async def test_streams_that_were_reset_with_data_unread_leave_nothing_behind() -> None:
    async with pair() as (one, two):
        for _ in range(30):
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            await stream.send(bytes(5_000))
            await stream.receive(1)
            await stream.reset()
        for network_ in (one, two):
            (connection,) = network_._connections
            await until(lambda connection=connection: connection.is_idle)


async def test_a_stream_has_the_priority_of_its_kind_at_both_ends() -> None:
    async with pair() as (one, two):
        two.handle(streams.DECODE, echo)
        two.handle(streams.WEIGHTS, echo)
        for kind in (streams.DECODE, streams.WEIGHTS):
            stream = await one.open_stream(two.peer, kind)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            for network_ in (one, two):
                (connection,) = (each for each in network_._connections if each.plane is Plane.DATA)
                assert [each.priority for each in connection.muxed._machine.streams.values()] == [
                    kind.priority
                ]
            await stream.close()
            assert await stream.receive() == b""


async def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with network(1).run():
            raise ZeroDivisionError


# Two connections -----------------------------------------------------------------------------------------------------


async def test_of_two_simultaneous_connections_the_one_that_the_lower_id_dialled_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh.host.connections.RETIRE_CHECK_S", 0.05)
    async with pair() as (one, two):
        one.handle(streams.MEMBERS, echo)
        lower, higher = sorted((one, two), key=lambda each: each.peer)
        for dialler, other in ((higher, lower), (lower, higher)):
            await dialler._hosts[Plane.CONTROL].dial(other.peer, other.addresses(Plane.CONTROL)[0])
        await until(lambda: len(higher.connections()) == 2 == len(lower.connections()))
        old = next(each for each in higher._connections if each.dialled)
        carried = await old.open_stream(streams.MEMBERS)
        await trio.sleep(0.3)
        await carried.send(b"in use")
        assert await carried.receive() == b"in use"
        for opener, other in ((lower, higher), (higher, lower)):
            await still_serves(opener, other)
        await carried.close()
        assert await carried.receive() == b""
        await until(lambda: [each.dialled for each in lower.connections()] == [True])
        await until(lambda: [each.dialled for each in higher.connections()] == [False])


async def test_a_peer_that_dials_again_has_lost_its_old_connection() -> None:
    async with pair() as (one, two):
        events = two.events()
        stream = await one.open_stream(two.peer, streams.MEMBERS)
        await one._hosts[Plane.CONTROL].dial(two.peer, two.addresses(Plane.CONTROL)[0])
        up, down = PeerUp(one.peer, Plane.CONTROL), PeerDown(one.peer, Plane.CONTROL)
        with trio.fail_after(5):
            assert [await anext(events) for _ in range(3)] == [up, down, up]
        await expect_end(stream)
        await until(lambda: len(one.connections()) == 1 == len(two.connections()))


# Visitors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        bytes(1 << 20),
        b"\xff" * 70_000,
        encode(HEADER) + encode(PROTOCOL_ID) + b"\x00\x30" + bytes(48),
        encode(HEADER) + encode(PROTOCOL_ID) + b"\xff\xff" + bytes(65_535),
        encode(HEADER) + b"\x03\xff\xff\n",
    ],
)
async def test_garbage_on_the_port_is_shown_out(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.5)
    async with pair() as (one, two):
        for plane in Plane:
            async with await trio.open_tcp_stream("127.0.0.1", port_of(two, plane)) as visitor:
                try:
                    await visitor.send_all(data)
                    if not data:
                        await visitor.send_eof()
                    with trio.fail_after(5):
                        while await visitor.receive_some():
                            pass
                except trio.BrokenResourceError:
                    pass  # shown out before it had finished
        await still_serves(one, two)
        assert len(two.connections()) == 1


def _plaintext_only(pair_: Any) -> dict[TProtocol, Any]:
    return {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(pair_)}


def _xx_only(pair_: Any) -> dict[TProtocol, Any]:
    return {TProtocol(XX_PROTOCOL_ID): XxTransport(pair_, create_new_x25519_key_pair().private_key)}


@pytest.mark.parametrize("offer", [_plaintext_only, _xx_only])
async def test_a_stock_dialler_without_xk_is_refused(offer: Callable[[Any], dict[TProtocol, Any]]) -> None:
    async with pair() as (one, two):
        admit(two, one.peer)
        key_pair = create_new_key_pair(b"v" * 32)
        visitor = new_host(key_pair=key_pair, sec_opt=offer(key_pair))
        swarm = visitor.get_network()
        assert isinstance(swarm, Swarm)
        swarm.retry_config.max_retries = 0
        async with visitor.run([]):
            with trio.fail_after(5), pytest.raises(SwarmException):
                await swarm.dial_addr(Multiaddr(two.addresses(Plane.CONTROL)[0]), ID.from_base58(two.peer))
        assert not two.connections()
        await still_serves(one, two)


async def test_handshakes_under_way_are_limited_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HALF_OPEN_MAX", 5)
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.5)
    async with pair() as (one, two):
        idle = [await trio.open_tcp_stream("127.0.0.1", port_of(two)) for _ in range(20)]
        await until(lambda: two._hosts[Plane.CONTROL]._half_open.count == 5)
        with pytest.raises(Unavailable):
            await one.connect(two.peer, Plane.CONTROL)
        await until(lambda: two._hosts[Plane.CONTROL]._half_open.count == 0)
        await still_serves(one, two)
        for visitor in idle:
            await visitor.aclose()


async def test_a_member_of_another_network_does_not_get_in() -> None:
    async with members(network(1), network(2, NetworkId("cd" * 16))) as (one, two):
        with pytest.raises((Unavailable, RemoteFault)):
            await one.connect(two.peer, Plane.CONTROL)
        assert not two.connections()


async def test_somebody_else_at_the_address_is_not_taken_for_the_peer() -> None:
    async with running(network(1), network(2)) as (one, two):
        admit(two, one.peer)
        there = contact_of(two)
        admit(one, identity(3).peer)
        one.learn(Contact(identity(3).peer, two.static, there.control, there.data))
        with pytest.raises(Unauthenticated) as raised:
            await one.connect(identity(3).peer, Plane.CONTROL)
        assert raised.value.peer == identity(3).peer
        assert not one.connections()


async def test_a_stranger_has_to_leave_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STRANGER_S", 0.3)
    async with running(network(1), network(2)) as (stranger, two):
        admit(two, strangers=True)
        two.handle(streams.JOIN, echo)
        stranger.learn(contact_of(two))
        admit(stranger, two.peer)
        stream = await stranger.open_stream(two.peer, streams.JOIN)
        assert [info.is_member for info in two.connections()] == [False]
        await expect_end(stream)
        await until(lambda: not two.connections())


async def test_strangers_leave_room_for_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STRANGERS_MAX", 2)
    networks = [network(number) for number in range(1, 6)]
    async with running(*networks):
        host, member, *crowd = networks
        admit(host, member.peer, strangers=True)
        host.handle(streams.MEMBERS, echo)
        for visitor in (member, *crowd):
            visitor.learn(contact_of(host))
            admit(visitor, host.peer)
        for stranger in crowd[:2]:
            await stranger.connect(host.peer, Plane.CONTROL)
        await until(lambda: len(host.connections()) == 2)
        with pytest.raises(Unauthenticated, match="too many strangers"):
            await exchange(crowd[2], host, streams.JOIN, b"x")
        await still_serves(member, host)


# Listening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plane", list(Plane))
async def test_a_taken_port_is_named_with_its_option(plane: Plane) -> None:
    async with running(network(1)) as (one,):
        taken = one.addresses(plane)[0]
        two = network(2, **{plane.value: taken})
        with pytest.raises(UserError, match=f"[Pp]ort {port_of(one, plane)} .* listen_{plane.value}"):
            async with two.run():
                raise AssertionError("it must not run")
        async with network(3).run():
            pass  # what the failed one had bound is free again


async def test_a_port_that_another_program_shares_is_taken_as_well() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"
        with pytest.raises(UserError, match="taken"):
            async with network(1, control=address).run():
                pass


@pytest.mark.parametrize(
    "address",
    ["", "4001", "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/99999", "/dns4/x/tcp/1", "/ip4/192.0.2.250/tcp/0"],
)
async def test_an_address_that_cannot_be_listened_on_is_the_users_to_change(address: str) -> None:
    with pytest.raises(UserError, match="listen_data") as raised:
        async with network(1, data=address).run():
            pass
    assert "\n" not in str(raised.value)


async def test_a_wildcard_is_told_to_others_as_addresses_that_can_be_dialled() -> None:
    async with running(network(1, control="/ip4/0.0.0.0/tcp/0")) as (one,):
        told = one.addresses(Plane.CONTROL)
        assert 0 < len(told) <= limits.ADDRESSES_MAX
        assert not [address for address in told if "/0.0.0.0/" in address or address.endswith("/tcp/0")]


# Quiet ---------------------------------------------------------------------------------------------------------------


async def test_libp2p_says_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    async with pair() as (one, two):
        await still_serves(one, two)
        await one.disconnect(two.peer)
        async with await trio.open_tcp_stream("127.0.0.1", port_of(two)) as visitor:
            await visitor.send_all(bytes(1_000))
        with pytest.raises(Unavailable):
            await one.connect(identity(9).peer, Plane.CONTROL)
        await trio.sleep(0.3)
    assert capfd.readouterr() == ("", "")
    assert root.handlers == []
