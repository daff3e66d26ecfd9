"""A node that lets foreign peers in, and libp2p's own host as one, on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr import Multiaddr

from mesh.host.foreign.connection import ForeignConnection
from mesh.host.foreign.peers import ForeignPeers
from mesh.host.foreign.streams import ECHO_ID
from simulations.machine.clock import SeededRandomness
from tests.mesh.host.wires import identity

ANYWHERE = "/ip4/127.0.0.1/tcp/0"
QUIET = ConnectionConfig(min_connections=0, low_watermark=0)


def foreign_peers(number: int) -> ForeignPeers:
    return ForeignPeers(identity(number), SeededRandomness(number), ANYWHERE)


@asynccontextmanager
async def foreign(number: int = 1) -> AsyncIterator[ForeignPeers]:
    node = foreign_peers(number)
    async with node.run():
        yield node


def address_of(node: ForeignPeers) -> str:
    return node.addresses[0]


def port_of(node: ForeignPeers) -> int:
    return int(address_of(node).split("/")[4])


async def echo(stream: INetStream) -> None:
    """As a stock host serves it."""
    try:
        while data := await stream.read(65_536):
            await stream.write(data)
    except StreamEOF:
        await stream.close()
    except StreamError:
        await stream.reset()


@asynccontextmanager
async def stock_host() -> AsyncIterator[IHost]:
    """With Noise and yamux, identify, ping and an echo."""
    key_pair = create_new_key_pair()
    noise = Transport(key_pair, create_new_x25519_key_pair().private_key)
    host = new_host(key_pair=key_pair, sec_opt={PROTOCOL_ID: noise}, connection_config=QUIET)
    host.set_stream_handler(TProtocol(ECHO_ID), echo)
    async with host.run([Multiaddr(ANYWHERE)]):
        yield host


def stock_address(host: IHost) -> str:
    return str(host.get_addrs()[0])


def info_of(node: ForeignPeers) -> PeerInfo:
    return info_from_p2p_addr(Multiaddr(address_of(node)))


async def echoed(connection: ForeignConnection, body: bytes) -> bytes:
    """What comes back of `body`, which is sent at the same time."""
    stream, got = await connection.open_stream(ECHO_ID), bytearray()

    async def send() -> None:
        await stream.send(body)
        await stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while len(got) < len(body) and (data := await stream.receive()):
            got += data
    return bytes(got)
