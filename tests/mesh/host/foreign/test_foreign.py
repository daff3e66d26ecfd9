"""Foreign peers: what libp2p's own host gets here and we get of it, and that nobody gets anything else."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as STOCK_IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID

from mesh.host.foreign import identify
from mesh.host.foreign.connection import ForeignConnection
from mesh.host.foreign.pace import BURST_S
from mesh.host.foreign.peers import ForeignPeers, parse
from mesh.host.foreign.streams import ECHO_ID, PING_ID
from mesh.host.handshake.negotiation import HEADER, encode
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.host.quiet import silence_libp2p
from protocols import limits, streams
from protocols.errors import (
    Disconnected,
    NoRoute,
    Overloaded,
    TimedOut,
    Unauthenticated,
    Unavailable,
    UserError,
)
from protocols.membership import Contact
from protocols.streams import Plane
from tests.mesh.host.foreign.foreign_hosts import (
    ANYWHERE,
    address_of,
    echoed,
    foreign,
    foreign_peers,
    info_of,
    port_of,
    stock_address,
    stock_host,
)
from tests.mesh.host.wires import NETWORK, identity

BODY = bytes(range(256)) * 1200  # 300 kB
LOOPBACK = dict.fromkeys(Plane, (ANYWHERE,))

# A stock host that stops leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _stock_hosts_are_quiet_and_leave_nothing_behind() -> Iterator[None]:
    silence_libp2p()
    yield
    gc.collect()


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not holds():
            await trio.sleep(0.01)


async def still_serves(node: ForeignPeers) -> None:
    """A visitor that behaves is answered."""
    with trio.fail_after(10):
        assert len((await foreign_peers(9).ping(address_of(node), 1)).rtts_ms) == 1


# They come -------------------------------------------------------------------------------------------------------------


async def test_libp2ps_own_host_identifies_and_pings_this_node() -> None:
    async with foreign() as node, stock_host() as visitor:
        with trio.fail_after(10):
            await visitor.connect(info_of(node))
            assert len(await PingService(visitor).ping(info_of(node).peer_id, 3)) == 3
            stream = await visitor.new_stream(info_of(node).peer_id, [STOCK_IDENTIFY])
            told = Identify.FromString((await read_all(stream))[2:])
        assert told.agent_version.startswith("weft/")
        assert sorted(told.protocols) == ["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/weft/echo/1"]
        assert (
            ID.from_pubkey(create_new_key_pair(identity(1).signing_seed).public_key) == info_of(node).peer_id
        )
        assert told.observed_addr.startswith(bytes([4, 127, 0, 0, 1, 6]))  # /ip4/127.0.0.1/tcp/
        assert len(told.listen_addrs) == 1


async def read_all(stream: INetStream) -> bytes:
    got = bytearray()
    with suppress(StreamEOF):
        while True:
            got += await stream.read(65_536)
    return bytes(got)


async def test_libp2ps_own_host_gets_its_300_kb_back() -> None:
    async with foreign() as node, stock_host() as visitor:
        with trio.fail_after(10):
            await visitor.connect(info_of(node))
            stream, got = await visitor.new_stream(info_of(node).peer_id, [TProtocol(ECHO_ID)]), bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.write, BODY)
                while len(got) < len(BODY):
                    got += await stream.read(65_536)
            await stream.close()
        assert got == BODY
        assert not node.faults


# We go -----------------------------------------------------------------------------------------------------------------


async def test_this_node_pings_libp2ps_own_host_and_hears_what_it_is() -> None:
    async with stock_host() as host:
        found = await foreign_peers(1).ping(stock_address(host), 3)
    assert found.peer == host.get_id().to_base58()
    assert "libp2p" in found.agent
    assert len(found.rtts_ms) == 3
    assert all(0 < each < 5000 for each in found.rtts_ms)


async def test_this_node_gets_its_300_kb_back_from_libp2ps_own_host() -> None:
    async with stock_host() as host, foreign_peers(1).dial(stock_address(host)) as connection:
        with trio.fail_after(10):
            assert await echoed(connection, BODY) == BODY


async def test_two_nodes_understand_each_other() -> None:
    async with foreign(1) as one, foreign(2) as two:
        found = await one.ping(address_of(two), 2)
        assert found.peer == identity(2).peer
        assert found.agent.startswith("weft/")
        async with two.dial(address_of(one)) as connection:
            assert await echoed(connection, BODY) == BODY
        await until(lambda: one._connections == two._connections == 0)


async def test_somebody_else_at_the_address_is_told_so() -> None:
    async with foreign(1) as one:
        address = address_of(one).replace(identity(1).peer, identity(3).peer)
        with pytest.raises(Unauthenticated, match="another peer"):
            await foreign_peers(2).ping(address, 1)


async def test_a_peer_that_is_not_there_or_speaks_nothing_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.2)
    asker, suffix = foreign_peers(2), f"/p2p/{identity(3).peer}"
    with pytest.raises(Disconnected, match="nobody answers"):
        await asker.ping("/ip4/127.0.0.1/tcp/1" + suffix, 1)
    (mute,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = mute.socket.getsockname()[1]
    with pytest.raises(TimedOut, match="handshake"):
        await asker.ping(f"/ip4/127.0.0.1/tcp/{port}{suffix}", 1)
    await mute.aclose()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/127.0.0.1/tcp/1",
        f"/ip4/127.0.0.1/udp/1/p2p/{identity(3).peer}",
        "/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "/ip4/127.0.0.1/tcp/1/p2p/0OIl",
        f"/p2p/{identity(3).peer}",
    ],
)
def test_an_address_that_cannot_be_dialled_is_told_in_one_line(address: str) -> None:
    with pytest.raises(UserError, match=r"give one like /ip4/") as caught:
        parse(address)
    assert "\n" not in str(caught.value)


async def test_a_node_does_not_ping_itself() -> None:
    async with foreign(1) as one:
        with pytest.raises(UserError, match="is this node"):
            await one.ping(address_of(one), 1)


async def test_a_port_that_is_taken_names_the_option() -> None:
    async with foreign(1) as one:
        second = ForeignPeers(identity(2), one._randomness, f"/ip4/127.0.0.1/tcp/{port_of(one)}")
        with pytest.raises(UserError, match=r"mesh\.foreign_listen"):
            async with second.run():
                pass


# Nothing of weft ---------------------------------------------------------------------------------------------------------


async def test_a_foreign_peer_reaches_no_protocol_of_weft() -> None:
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        for kind in streams.ALL:
            with pytest.raises(NoRoute):
                await connection.open_stream(kind.name)
        assert await echoed(connection, b"still here") == b"still here"


async def test_the_planes_of_members_do_not_speak_noise_xx() -> None:
    network = Libp2pNetwork(identity(1), NETWORK, LOOPBACK)
    async with network.run():
        for plane in Plane:
            address = f"{network.addresses(plane)[0]}/p2p/{network.peer}"
            with trio.fail_after(10), pytest.raises(NoRoute, match="does not speak /noise"):
                await foreign_peers(2).ping(address, 1)


async def test_where_foreign_peers_come_members_do_not_get_in() -> None:
    visitor = Libp2pNetwork(identity(2), NETWORK, LOOPBACK)
    async with foreign(1) as one, visitor.run():
        address = address_of(one).partition("/p2p/")[0]
        visitor.learn(
            Contact(peer=identity(1).peer, static=identity(1).static, control=(address,), data=(), name="")
        )
        with trio.fail_after(10), pytest.raises(Unavailable):
            await visitor.connect(identity(1).peer, Plane.CONTROL)
        await until(lambda: bool(one.faults))
        await still_serves(one)


async def test_the_static_is_not_the_one_that_members_dial() -> None:
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        static = connection._muxed.secured_conn.get_remote_public_key()
        assert static is not None
        assert static.to_bytes() != identity(1).static


# Bounds --------------------------------------------------------------------------------------------------------------------


GARBAGE = {
    "zeros": bytes(4096),
    "http": b"GET / HTTP/1.1\r\nhost: weft\r\n\r\n",
    "a huge length": b"\xff\xff\xff\xff" * 64,
    "no protocol that is spoken": encode(HEADER) + encode("/tls/1.0.0") * 9,
    "noise without a key": encode(HEADER) + encode("/noise") + b"\x00\x20" + bytes(32),
    "noise with a long message": encode(HEADER) + encode("/noise") + b"\xff\xff" + bytes(64),
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_is_counted_and_harms_nobody(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.5)  # some of it waits for more
    async with foreign(1) as one:
        async with await trio.open_tcp_stream("127.0.0.1", port_of(one)) as visitor:
            await visitor.send_all(sent)
            with trio.fail_after(5):
                try:
                    while await visitor.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        await until(lambda: sum(one.faults.values()) == 1)
        assert set(one.faults) <= {"Malformed", "Disconnected", "TimedOut"}
        await still_serves(one)


async def test_handshakes_that_take_too_long_are_ended_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HALF_OPEN_LOOPBACK_MAX", 4)
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.3)
    async with foreign(1) as one:
        idle = [await trio.open_tcp_stream("127.0.0.1", port_of(one)) for _ in range(8)]
        for each in idle[:4]:
            await each.send_all(encode(HEADER)[:5])
        await until(lambda: one._half_open.count == 4 and one.faults["Overloaded"] == 4)
        await until(lambda: one._half_open.count == 0 and one.faults["TimedOut"] == 4)
        await still_serves(one)
        for each in idle:
            await each.aclose()


async def test_connections_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOREIGN_CONNECTIONS_MAX", 2)
    async with foreign(1) as one, trio.open_nursery() as nursery:
        leave = trio.Event()

        async def stay(number: int) -> None:
            async with foreign_peers(number).dial(address_of(one)) as connection:
                await echoed(connection, b"here")
                await leave.wait()

        nursery.start_soon(stay, 2)
        nursery.start_soon(stay, 3)
        await until(lambda: one._connections == 2)
        with trio.fail_after(5), pytest.raises(Unavailable):
            await foreign_peers(4).ping(address_of(one), 1)
        with pytest.raises(Overloaded):
            await one.ping(f"/ip4/127.0.0.1/tcp/1/p2p/{identity(5).peer}", 1)
        assert one.faults["Overloaded"] == 1
        leave.set()
        await until(lambda: one._connections == 0)
        await still_serves(one)


async def test_streams_of_one_connection_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOREIGN_STREAMS_MAX", 3)
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        held = [await connection.open_stream(ECHO_ID) for _ in range(3)]
        with trio.fail_after(5), pytest.raises(Disconnected):
            await connection.open_stream(ECHO_ID)
        assert one.faults["Overloaded"] == 1
        for each in held:
            await each.close()
        with trio.fail_after(5):
            assert await echoed_again(connection) == b"again"


async def echoed_again(connection: ForeignConnection) -> bytes:
    while True:
        try:
            return await echoed(connection, b"again")
        except Disconnected:
            await trio.sleep(0.01)


async def test_a_flood_of_streams_ends_the_connection_alone() -> None:
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        with trio.fail_after(10), pytest.raises(Unavailable):
            while True:
                stream = await connection._muxed.open_stream()
                await stream.reset()
        await until(lambda: connection._muxed.is_lost)
        await until(lambda: one.faults["Malformed"] == 1 and one._connections == 0)
        await still_serves(one)


async def test_a_stream_that_says_nothing_or_carries_nothing_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "OPEN_STREAM_S", 0.2)
    monkeypatch.setattr(limits, "FOREIGN_IDLE_S", 0.2)
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        silent, idle = await connection._muxed.open_stream(), await connection.open_stream(ECHO_ID)
        for stream in (silent, idle):
            with trio.fail_after(5), pytest.raises(Disconnected):
                await stream.receive()
        await until(lambda: one.faults["TimedOut"] == 2)


async def test_a_reader_that_reads_nothing_back_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOREIGN_IDLE_S", 0.3)
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        stream = await connection.open_stream(ECHO_ID)
        with trio.fail_after(10), pytest.raises(Disconnected):
            while True:
                await stream.send(bytes(65_536))
        await until(lambda: one.faults["TimedOut"] == 1)


async def test_a_stream_carries_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOREIGN_STREAM_BYTES_MAX", 100_000)
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        assert await echoed(connection, bytes(100_000)) == bytes(100_000)
        with trio.fail_after(5), pytest.raises(Disconnected):
            await echoed_plainly(connection, bytes(100_001))
        assert one.faults["Oversized"] == 1


async def echoed_plainly(connection: ForeignConnection, body: bytes) -> None:
    """Without the nursery around its error."""
    stream = await connection.open_stream(ECHO_ID)
    await stream.send(body)
    while await stream.receive():
        pass


async def test_a_connection_without_streams_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOREIGN_IDLE_S", 0.2)
    monkeypatch.setattr("mesh.host.foreign.connection.IDLE_CHECK_S", 0.05)
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        await until(lambda: connection._muxed.is_lost and one._connections == 0)
        assert not one.faults


async def test_a_window_of_a_foreign_stream_stays_small() -> None:
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        stream = await connection.open_stream(ECHO_ID)
        windows = []
        with trio.fail_after(20):
            for _ in range(24):
                await stream.send(BODY[:65_536])
                for _ in range(4):
                    await stream.receive(16_384)
                windows.append(stream._substream.credit_bytes)
        assert max(windows) <= limits.URGENT_WINDOW_BYTES_MAX


@pytest.mark.parametrize("bound", ["FOREIGN_BYTES_PER_S", "FOREIGN_ALL_BYTES_PER_S"])
async def test_who_sends_fast_is_slowed_down_and_not_refused(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, bound, 800_000)
    async with foreign(1) as one, foreign_peers(2).dial(address_of(one)) as connection:
        began, body = trio.current_time(), bytes(1_400_000)
        assert await echoed(connection, body) == body
        # Its last 256 KiB may have come at once; what was before them had to be paid for.
        assert trio.current_time() - began > 1_130_000 / 800_000 - BURST_S
        assert not one.faults


async def test_a_foreign_peer_that_lies_in_its_ping_is_blamed() -> None:
    async def lie(stream: INetStream) -> None:
        await stream.read(32)
        await stream.write(bytes(32))

    async with stock_host() as host:
        host.set_stream_handler(TProtocol(PING_ID), lie)
        with trio.fail_after(10), pytest.raises(Exception, match="another answer to a ping") as caught:
            await foreign_peers(1).ping(stock_address(host), 1)
        assert caught.type.__name__ == "Malformed"


async def test_a_peer_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOREIGN_ANSWER_S", 0.5)

    async def hang(stream: INetStream) -> None:
        await trio.sleep(5)

    async with stock_host() as host:
        host.set_stream_handler(TProtocol(PING_ID), hang)
        with trio.fail_after(10), pytest.raises(TimedOut, match="not all answers came"):
            await foreign_peers(1).ping(stock_address(host), 1)


async def test_identify_says_no_more_than_its_bound_lets_it() -> None:
    async def boast(stream: INetStream) -> None:
        await stream.write(b"\xff\xff\x03" + bytes(65_535))
        await stream.close()

    async with stock_host() as host:
        host.set_stream_handler(TProtocol(identify.PROTOCOL_ID), boast)
        with trio.fail_after(10), pytest.raises(Exception, match="identify message of 65535 bytes"):
            await foreign_peers(1).ping(stock_address(host), 1)


async def test_a_peer_that_does_not_identify_itself_is_pinged_all_the_same() -> None:
    async with foreign(1) as one:
        services = {key: each for key, each in one._services.items() if key != identify.PROTOCOL_ID}
        one._services = services
        assert (await foreign_peers(2).ping(address_of(one), 1)).agent == ""


async def test_taking_the_listener_down_ends_everything() -> None:
    one, ends = foreign_peers(1), trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with ends:
            async with one.run():
                task_status.started()
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        async with foreign_peers(2).dial(address_of(one)) as connection:
            assert await echoed(connection, b"here") == b"here"
            ends.cancel()
            await until(lambda: connection._muxed.is_lost and one._connections == 0)
