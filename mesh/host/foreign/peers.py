"""Foreign peers: libp2p of other kinds (js, go, rust), where the operator lets them in.

They get a listener of their own, never the members' planes: `/noise` (XX) and yamux, agreed on by multistream as everybody
has it, and behind that identify, ping and echo. Nothing of weft is spoken here, nobody becomes a member here, and the
handshake's static is not the one that members dial. No swarm is needed for that: a socket, a handshake, and our own muxer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version
from typing import Final

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.security.exceptions import HandshakeFailure

from mesh.admission.identity import Identity, public_key_of, static_key
from mesh.host import listening
from mesh.host.addresses.interfaces import advertised, bound_to, own_interfaces
from mesh.host.foreign import identify
from mesh.host.foreign import streams as foreign_streams
from mesh.host.foreign.connection import ForeignConnection
from mesh.host.foreign.pace import Pace, PacedConnection
from mesh.host.guard import Guard
from mesh.host.handshake import negotiation, noise_xx
from mesh.host.handshake.half_open import HalfOpen
from mesh.host.handshake.noise import WrongIdentity
from mesh.host.handshake.noise_xx import NoiseXx
from mesh.host.handshake.security import YamuxOnly
from mesh.host.quiet import silence_libp2p
from mesh.host.wire.framing import RawWire
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.stream import MuxedStream
from mesh.nursery import peer_nursery
from mesh.rpc import closing, deadline
from protocols import limits
from protocols.addresses import TcpAddress, parse_address, tcp_address
from protocols.errors import (
    Disconnected,
    Malformed,
    NoRoute,
    Overloaded,
    Unauthenticated,
    UserError,
)
from protocols.ids import PeerId
from protocols.seams import ForeignPing, Randomness

OPTION: Final = "mesh.foreign_listen"
_STATIC_BYTES: Final = 32


class ForeignPeers:
    """Implements `protocols.seams.ForeignPeers` while `run` is open. `listen` is a multiaddr, port 0 for any.

    `faults` counts what foreign peers did wrong and what was refused them, by the name of the error.
    """

    def __init__(
        self, identity: Identity, randomness: Randomness, listen: str, interfaces: Sequence[str] = ()
    ) -> None:
        silence_libp2p()
        self._identity = identity
        self._randomness = randomness
        self._listen = listen
        self._interfaces = interfaces
        self._guard = Guard(BaseLibp2pError)
        self._xx = NoiseXx(identity, static_key(randomness.token_bytes(_STATIC_BYTES), 0.0))
        self._yamux = YamuxOnly(self._guard)
        self._services = foreign_streams.services(self._identification)
        self._half_open = HalfOpen()
        self._pace = Pace(limits.FOREIGN_ALL_BYTES_PER_S)
        self._connections = 0
        self._bound: tuple[str, ...] = ()

    @property
    def faults(self) -> Mapping[str, int]:
        return self._guard.faults

    @property
    def addresses(self) -> tuple[str, ...]:
        """As others may dial them, with the peer id."""
        found = advertised(bound_to(self._bound), own_interfaces(), self._interfaces)
        return tuple(f"{each}/p2p/{self._identity.peer}" for each in found)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Listen and serve while the context is open. Raises `UserError` for an address that can't be listened on."""
        listeners = await listening.bind((self._listen,), OPTION)
        self._bound = listening.bound_at(listeners)
        try:
            async with peer_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._accept, listeners)
                yield
                nursery.cancel_scope.cancel()
        finally:
            await listening.close_all(listeners)

    # Who comes ---------------------------------------------------------------------------------------------------------

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Runs as long as the connection, since trio closes the socket when it returns."""
        try:
            prefix = self._half_open.enter(str(stream.socket.getpeername()[0]), trio.current_time())
        except (OSError, Overloaded) as error:  # it has left again, or is one of too many to log each of them
            self._guard.faults[type(error).__name__] += 1
            return
        upgraded: list[Muxer] = []
        try:
            await self._guard.contain("a foreign handshake", partial(self._greet, stream, upgraded.append))
        finally:
            self._half_open.leave(prefix)
        for muxed in upgraded:
            await self._guard.contain("a foreign connection", partial(self._serve, muxed))

    async def _greet(self, stream: trio.SocketStream, keep: Callable[[Muxer], None]) -> None:
        keep(await self._upgrade(stream, None))

    async def _serve(self, muxed: Muxer) -> None:
        with self._place():
            await ForeignConnection(muxed, self._services, self._guard).run()

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._connections >= limits.FOREIGN_CONNECTIONS_MAX:
            raise Overloaded(f"{limits.FOREIGN_CONNECTIONS_MAX} foreign peers are connected: try again later")
        self._connections += 1
        try:
            yield
        finally:
            self._connections -= 1

    async def _upgrade(self, stream: trio.SocketStream, dialled: PeerId | None) -> Muxer:
        """Raises `Unauthenticated` for another peer than was meant, and `Unavailable`."""
        wire = RawWire(RawConnection(TrioTCPStream(stream), dialled is not None))
        try:
            with deadline(limits.HANDSHAKE_S, "the handshake was not done"):
                secured = await self._secure(wire, dialled)
                secured.pace_with(self._pace)
                muxed = await self._yamux.new_conn(secured, secured.get_remote_peer())
        except WrongIdentity as error:
            raise Unauthenticated(str(error), dialled) from error
        except (HandshakeFailure, MultiselectError) as error:
            raise Disconnected(f"no handshake: {error}") from error
        assert isinstance(muxed, Muxer)
        return muxed

    async def _secure(self, wire: RawWire, dialled: PeerId | None) -> PacedConnection:
        if dialled is None:
            await negotiation.accept(wire, lambda proposed: proposed == noise_xx.PROTOCOL_ID)
            return await self._xx.accept(wire)
        await negotiation.propose(wire, noise_xx.PROTOCOL_ID)
        return await self._xx.dial(wire, dialled)

    def _identification(self, stream: MuxedStream) -> bytes:
        """What this node tells whoever has opened `stream` to ask."""
        listen = [each.rpartition("/p2p/")[0] for each in self.addresses]
        return identify.encode(
            self._identity.public_key,
            f"weft/{version('weft')}",
            tuple(self._services),
            listen,
            _multiaddr(stream.get_remote_address()),
        )

    # Whom this node asks -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator[ForeignConnection]:
        """A connection to the peer that `address` ends in; whatever either side has open on it ends with the context.

        Raises `UserError` for an address that can't be dialled, `Unauthenticated` if somebody else answers, `Unavailable`.
        """
        tcp, peer = parse(address)
        if peer == self._identity.peer:
            raise UserError(f"{peer} is this node: name another.")
        with self._place():
            async with await _connect(tcp) as stream:
                connection = ForeignConnection(await self._upgrade(stream, peer), self._services, self._guard)
                async with peer_nursery() as nursery:
                    nursery.start_soon(connection.run)
                    yield connection
                    nursery.cancel_scope.cancel()

    async def ping(self, address: str, count: int) -> ForeignPing:
        async with self.dial(address) as connection:
            with deadline(limits.FOREIGN_ANSWER_S, f"not all answers came from {connection.peer}"):
                agent = await self._agent_of(connection)
                stream = await connection.open_stream(foreign_streams.PING_ID)
                async with closing(stream):
                    rtts = [
                        await foreign_streams.ask_ping(stream, self._randomness, trio.current_time)
                        for _ in range(count)
                    ]
        return ForeignPing(connection.peer, agent, tuple(rtts))

    async def _agent_of(self, connection: ForeignConnection) -> str:
        try:
            stream = await connection.open_stream(identify.PROTOCOL_ID)
        except NoRoute:
            return ""  # it need not tell
        async with closing(stream):
            return (await foreign_streams.ask_identity(stream)).agent


def parse(address: str) -> tuple[TcpAddress, PeerId]:
    """The two parts of a multiaddr that ends in /p2p/ID. Raises `UserError`."""
    place, _, name = address.rpartition("/p2p/")
    try:
        tcp = parse_address(place)
        public_key_of(PeerId(name))
    except Malformed as error:
        raise UserError(
            f"{address!r:.300} can't be dialled ({error}): give one like /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo..."
        ) from error
    return tcp, PeerId(name)


async def _connect(tcp: TcpAddress) -> trio.SocketStream:
    with deadline(limits.DIAL_S, f"no answer at {tcp}"):
        try:
            return await trio.open_tcp_stream(tcp.host, tcp.port)
        except OSError as error:
            raise Disconnected(f"nobody answers at {tcp}") from error


def _multiaddr(remote: tuple[str, int] | None) -> str:
    if remote is None:
        return ""
    return str(tcp_address(ipaddress.ip_address(remote[0].partition("%")[0]), remote[1]))
