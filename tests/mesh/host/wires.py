"""Raw libp2p connections in memory, for what needs no sockets and may need virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pump

from mesh.admission.identity import Identity, identity_from_keys
from mesh.host.guard import Guard
from mesh.host.handshake.noise_xk import NoiseXk
from mesh.host.handshake.security import XkOnly
from mesh.host.wire.framing import SecureConnection
from mesh.host.wire.muxer import Muxer
from protocols.errors import Unauthenticated
from protocols.ids import NetworkId, PeerId

NETWORK = NetworkId("ab" * 16)


class MemoryWire(IRawConnection):
    """One end. What is written waits in `sent` until it is pumped, at once unless `is_held`."""

    def __init__(self, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        self.sent = MemorySendStream()
        self.arriving = MemoryReceiveStream()
        self.other: MemoryWire | None = None
        self.is_held = False
        self.is_closed = False
        self.piece_bytes: int | None = None
        self.stalled: trio.Event | None = None

    async def write(self, data: bytes) -> None:
        if self.stalled is not None:
            await self.stalled.wait()
        await self.sent.send_all(data)
        self.pump()

    def pump(self) -> None:
        if self.other is not None and not self.is_held:
            memory_stream_pump(self.sent, self.other.arriving)

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.arriving.receive_some(self.piece_bytes or n))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True
        self.sent.close()
        self.pump()
        self.arriving.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return ("127.0.0.1", 1)

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


def wire_pair() -> tuple[MemoryWire, MemoryWire]:
    """A dialler's end and an acceptor's."""
    dialler, acceptor = MemoryWire(True), MemoryWire(False)
    dialler.other, acceptor.other = acceptor, dialler
    return dialler, acceptor


def identity(number: int) -> Identity:
    return identity_from_keys(bytes([number]) * 32, bytes([100 + number]) * 32)


def xk(
    own: Identity, *known: Identity, network: NetworkId = NETWORK, welcome: frozenset[PeerId] | None = None
) -> NoiseXk:
    """The handshake of `own`, which knows the statics of `known` and lets in `welcome`, or everybody."""
    statics = {each.peer: each.static for each in known}

    def judge(peer: PeerId, shown: bytes, dialled: bool) -> None:
        if not (dialled or welcome is None or peer in welcome):
            raise Unauthenticated("not on the list", peer)

    return NoiseXk(own, network, statics.get, lambda: b"", judge)


async def secured_pair(
    wires: tuple[MemoryWire, MemoryWire] | None = None,
) -> tuple[SecureConnection, SecureConnection]:
    """Two ends of an encrypted connection between identities 1 and 2."""
    dialler, acceptor = wires or wire_pair()
    one, two = identity(1), identity(2)
    ends: dict[str, SecureConnection] = {}

    async def dial() -> None:
        connection = await XkOnly(xk(one, two)).secure_outbound(dialler, ID.from_base58(two.peer))
        assert isinstance(connection, SecureConnection)
        ends["dialler"] = connection

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        accepted = await XkOnly(xk(two)).secure_inbound(acceptor)
    assert isinstance(accepted, SecureConnection)
    return ends["dialler"], accepted


MuxerT = TypeVar("MuxerT", Muxer, Yamux)
OtherT = TypeVar("OtherT", Muxer, Yamux)


def ours(connection: SecureConnection, guard: Guard | None = None) -> Muxer:
    return Muxer(connection, connection.get_remote_peer(), guard or Guard())


def stock(connection: SecureConnection) -> Yamux:
    return Yamux(connection, connection.get_remote_peer(), connection.is_initiator)


@asynccontextmanager
async def muxed_pair(
    wires: tuple[MemoryWire, MemoryWire] | None = None,
) -> AsyncIterator[tuple[Muxer, Muxer]]:
    """Two ends of a running yamux connection."""
    async with muxed(ours, ours, wires) as pair:
        yield pair


@asynccontextmanager
async def muxed(
    make_here: Callable[[SecureConnection], MuxerT],
    make_there: Callable[[SecureConnection], OtherT],
    wires: tuple[MemoryWire, MemoryWire] | None = None,
) -> AsyncIterator[tuple[MuxerT, OtherT]]:
    """Two ends of a running connection, each with the muxer of its choice; the first has dialled."""
    here, there = await secured_pair(wires)
    muxers = make_here(here), make_there(there)
    async with trio.open_nursery() as nursery:
        for muxer in muxers:
            nursery.start_soon(muxer.start)
        for muxer in muxers:
            await muxer.event_started.wait()
        yield muxers
        nursery.cancel_scope.cancel()
