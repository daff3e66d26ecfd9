"""Traps of py-libp2p 0.8.1, shown on the stock library.

Each test here passes while the trap is there. One that fails after an upgrade of libp2p means that upstream has mended it:
then the workaround named beside it can go, and its own test tells whether all is still well.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.abc import Reader
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.utils import read_exactly
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.peerinfo import PeerInfo
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr
from trio.testing import MockClock

from mesh.host.quiet import silence_libp2p
from tests.mesh.host.wires import muxed, stock, wire_pair

ANYWHERE = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
NOBODY = Multiaddr("/ip4/127.0.0.1/tcp/1")
PROTOCOL = TProtocol("/trap/1")
QUIET = ConnectionConfig(min_connections=0, low_watermark=0)


# A stock host that stops leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _stock_hosts_are_quiet_and_leave_nothing_behind() -> Iterator[None]:
    silence_libp2p()
    yield
    gc.collect()


def stock_host() -> IHost:
    return new_host(key_pair=create_new_key_pair(), connection_config=QUIET)


def swarm_of(host: IHost) -> Swarm:
    network = host.get_network()
    assert isinstance(network, Swarm)
    network.retry_config = RetryConfig(max_retries=0)
    return network


def where(host: IHost, *before: Multiaddr) -> PeerInfo:
    bare = [Multiaddr(str(address).split("/p2p/")[0]) for address in host.get_addrs()]
    return PeerInfo(host.get_id(), [*before, *bare])


async def test_t1_an_exception_in_a_handler_still_ends_the_whole_host() -> None:
    """Worked around by `Guard.contain` around every handler."""

    async def fail(stream: INetStream) -> None:
        raise ZeroDivisionError

    one, two = stock_host(), stock_host()
    two.set_stream_handler(PROTOCOL, fail)
    with pytest.raises(BaseExceptionGroup) as raised:
        with trio.fail_after(10):
            async with one.run(ANYWHERE), two.run(ANYWHERE):
                await swarm_of(one).dial_addr(where(two).addrs[0], two.get_id())
                await one.new_stream(two.get_id(), [PROTOCOL])
                await trio.sleep_forever()
    assert raised.group_contains(ZeroDivisionError)


async def test_t2_an_inbound_connection_still_keeps_its_slot_after_its_end() -> None:
    """Worked around by an accept loop of our own (`PlaneHost._accept`)."""
    one, two = stock_host(), stock_host()
    async with one.run(ANYWHERE), two.run(ANYWHERE):
        await swarm_of(one).dial_addr(where(two).addrs[0], two.get_id())
        await one.disconnect(two.get_id())
        with trio.fail_after(5):
            while two.get_network().connections:
                await trio.sleep(0.02)
        await trio.sleep(0.1)
        assert swarm_of(two)._inbound_limiter.borrowed_tokens == 1


async def test_t3_connecting_still_waits_a_quarter_of_a_second_after_it_is_done() -> None:
    """Worked around by `dial_addr`."""
    one, two = stock_host(), stock_host()
    async with one.run(ANYWHERE), two.run(ANYWHERE):
        began_s = trio.current_time()
        await one.connect(where(two))
        assert trio.current_time() - began_s >= 0.24


async def test_t4_only_the_first_address_is_still_dialled_and_then_the_peer_is_refused() -> None:
    """Worked around by `Libp2pNetwork._dial`, one address after the other with `dial_addr`."""
    one, two = stock_host(), stock_host()
    swarm_of(one)
    async with one.run(ANYWHERE), two.run(ANYWHERE):
        with pytest.raises(Exception, match="unable to connect"):
            await one.connect(where(two, NOBODY))
        with pytest.raises(SwarmException, match="negative cache"):
            await swarm_of(one).dial_peer(two.get_id())


async def test_t5_a_write_still_gives_up_when_the_reader_pauses_for_five_seconds(
    autojump_clock: MockClock,
) -> None:
    """Our own muxer waits for as long as the reader likes."""
    async with muxed(stock, stock) as (here, there):
        stream = await here.open_stream()
        await there.accept_stream()
        with pytest.raises(MuxedStreamError, match="after 5 seconds"):
            await stream.write(bytes(24_000_000))


async def test_t6_a_silent_peer_is_still_not_noticed(autojump_clock: MockClock) -> None:
    """Worked around by pings of our own, whose silence leads to `Network.disconnect`."""
    wires = wire_pair()
    async with muxed(stock, stock, wires) as (here, _):
        for wire in wires:
            wire.is_held = True
        await trio.sleep(1_200)
        assert here.is_established


async def test_t8_the_257th_stream_is_still_waited_for_in_silence(autojump_clock: MockClock) -> None:
    """Our own muxer counts and raises."""
    async with muxed(stock, stock) as (here, there), trio.open_nursery() as nursery:
        nursery.start_soon(_accept_all, there)
        for _ in range(256):
            await here.open_stream()
        with trio.move_on_after(3_600) as patience:
            await here.open_stream()
        assert patience.cancelled_caught
        nursery.cancel_scope.cancel()


async def _accept_all(muxer: Yamux) -> None:
    while True:
        await muxer.accept_stream()


async def test_t9_watermarks_of_zero_still_let_it_dial_whom_it_knows() -> None:
    """Worked around by an auto-connector that does nothing (`plane._NoAutoConnector`)."""
    one, two = stock_host(), stock_host()
    async with two.run(ANYWHERE):
        one.get_peerstore().add_addrs(two.get_id(), where(two).addrs, 60)
        async with one.run(ANYWHERE):
            with trio.fail_after(10):
                while not one.get_network().connections:
                    await trio.sleep(0.02)


async def test_t10_an_exact_read_still_gives_up_after_a_hundred_pieces() -> None:
    """Worked around by readers of our own (`RawWire`, `SecureConnection.read`)."""

    class Drip(Reader):
        async def read(self, n: int | None = None) -> bytes:
            return b"."

    with pytest.raises(IncompleteReadError):
        await read_exactly(Drip(), 200)


def test_a_default_host_still_offers_plaintext() -> None:
    """Worked around by an explicit `sec_opt` and by `XkOnly`."""
    offered = swarm_of(stock_host()).upgrader.security_multistream.transports
    assert any("plaintext" in str(protocol) for protocol in offered)


async def test_two_hosts_still_share_one_port_without_a_word() -> None:
    """Worked around by `listening.bind`."""
    one, two = stock_host(), stock_host()
    async with one.run(ANYWHERE), two.run([where(one).addrs[0]]):
        assert where(one).addrs == where(two).addrs
