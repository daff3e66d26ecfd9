"""One plane: a libp2p swarm with its own port, made fit for a daemon.

A swarm is what a py-libp2p host wraps; the host itself would add identify and ping, which members do not need and strangers
must not get. Of the swarm's own ways of connecting only two are used, dialling one address and upgrading one accepted
socket, because the others

* keep a slot and a task for every inbound connection until the process ends (`listening` accepts instead);
* take at least 250 ms for `connect`, dial one address per transport, and then refuse the peer for a minute;
* dial whomever they know while there are few connections, whatever the watermarks say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio
from libp2p import new_swarm
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction, ResourceLimits, ResourceManager
from libp2p.security.exceptions import HandshakeFailure
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from mesh.admission.identity import Identity
from mesh.host import listening
from mesh.host.connection import Connection
from mesh.host.guard import Guard
from mesh.host.handshake import noise_xk
from mesh.host.handshake.half_open import HalfOpen
from mesh.host.handshake.noise import WrongIdentity
from mesh.host.handshake.noise_xk import NoiseXk, TurnedAway, Unwelcome
from mesh.host.handshake.security import XkOnly, YamuxOnly
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.stream import MuxedStream
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, NoRoute, Overloaded, Unauthenticated, Unavailable
from protocols.ids import PeerId
from protocols.streams import Plane


class PlaneHost:
    """Listens, dials, and reports connections and inbound streams; decides nothing.

    `adopt` is given every new connection; `serve` every inbound stream with its connection, in a task of its own.
    """

    def __init__(
        self,
        plane: Plane,
        identity: Identity,
        xk: NoiseXk,
        guard: Guard,
        adopt: Callable[[Connection], Connection],
        serve: Callable[[Connection, MuxedStream], Awaitable[None]],
    ) -> None:
        self.plane = plane
        self._swarm = make_swarm(identity, xk, guard)
        self._swarm.register_notifee(_Newcomers(self._adopt))
        self._swarm.set_stream_handler(self._serve)
        self._guard = guard
        self._report = adopt
        self._handle = serve
        self._half_open = HalfOpen()
        self._listeners: list[trio.SocketListener] = []
        self.addresses: tuple[str, ...] = ()

    async def bind(self, listen: Sequence[str], option: str) -> None:
        """Take the sockets, after which `addresses` (with wildcards) are known; whoever dials now waits for `run`.

        Raises `UserError` for an address that cannot be listened on, which names `option`.
        """
        self._listeners = await listening.bind(listen, option)
        self.addresses = listening.bound_at(self._listeners)

    async def let_go(self) -> None:
        await listening.close_all(self._listeners)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Accept and dial while the context is open."""
        async with background_trio_service(self._swarm), trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._accept, self._listeners)
            yield
            nursery.cancel_scope.cancel()

    async def dial(self, peer: PeerId, address: str) -> None:
        """One address, one attempt, no memory of failures. Raises `Unavailable` or `Unauthenticated`."""
        try:
            await self._swarm.dial_addr(Multiaddr(address), ID.from_base58(peer))
        except BaseLibp2pError as error:
            raise _refusal(peer, address, error) from error
        except (MultiaddrError, ValueError) as error:  # the latter for an id that is not base58
            raise NoRoute(f"{address!r} is no address, or {peer!r} no peer") from error

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Runs as long as the connection, since trio closes the socket when it returns."""
        try:
            place = self._half_open.enter(str(stream.socket.getpeername()[0]), trio.current_time())
        except (OSError, Overloaded) as error:  # it has left again, or is one of too many to log each of them
            self._guard.faults[type(error).__name__] += 1
            return
        upgraded: list[Muxer] = []
        try:
            await self._guard.contain("an inbound handshake", partial(self._upgrade, stream, upgraded.append))
        finally:
            self._half_open.leave(place)
        for muxed in upgraded:
            await muxed.event_closed.wait()

    async def _upgrade(self, stream: trio.SocketStream, keep: Callable[[Muxer], None]) -> None:
        raw = RawConnection(TrioTCPStream(stream), False)
        try:
            with deadline(limits.HANDSHAKE_S, "the handshake was not done"):
                muxed = await self._swarm.upgrade_inbound_raw_conn(raw, Multiaddr("/ip4/0.0.0.0/tcp/0"))
        except BaseLibp2pError as error:
            raise _inbound_failure(error) from error
        assert isinstance(muxed, Muxer)
        keep(muxed)

    def _adopt(self, conn: SwarmConn) -> Connection:
        muxed = conn.muxed_conn
        assert isinstance(muxed, Muxer)
        peer, is_dialled = PeerId(muxed.peer_id.to_base58()), conn.direction is Direction.OUTBOUND
        return self._report(
            Connection(peer, self.plane, is_dialled, muxed, muxed.secured_conn, trio.current_time())
        )

    async def _serve(self, stream: INetStream) -> None:
        # A stream may be accepted before its connection has been announced.
        assert isinstance(stream, NetStream)
        assert isinstance(stream.swarm_conn, SwarmConn)
        connection = self._adopt(stream.swarm_conn)
        muxed = stream.muxed_stream
        assert isinstance(muxed, MuxedStream)
        await self._guard.contain("an inbound stream", lambda: self._handle(connection, muxed))


class _NoAutoConnector(AutoConnector):
    """Connections are made when the node asks for them. (Watermarks of zero do not switch the stock one off.)"""

    async def maybe_connect(self) -> None:
        pass

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        pass


class _Newcomers(INotifee):
    """Hears from the swarm of every connection that is ready."""

    def __init__(self, adopt: Callable[[SwarmConn], Connection]) -> None:
        self._adopt = adopt

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        assert isinstance(conn, SwarmConn)
        self._adopt(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        pass  # the connection itself has told, 100 ms ago

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        pass

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        pass


def make_swarm(identity: Identity, xk: NoiseXk, guard: Guard) -> Swarm:
    """A swarm that speaks XK and yamux over TCP alone, under limits of ours, and does nothing on its own."""
    swarm = new_swarm(
        key_pair=create_new_key_pair(identity.signing_seed),
        sec_opt={TProtocol(noise_xk.PROTOCOL_ID): xk},  # the default list ends in plaintext
        transports=[TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=limits.CONNECTIONS_MAX,
            high_watermark=limits.CONNECTIONS_MAX,
            low_watermark=0,
            min_connections=0,
            inbound_upgrade_timeout=limits.HANDSHAKE_S,
            outbound_upgrade_timeout=limits.HANDSHAKE_S,
        ),
        resource_manager=_resource_manager(),
    )
    assert isinstance(swarm, Swarm)
    swarm.auto_connector = _NoAutoConnector(swarm)
    swarm.upgrader.security_multistream = XkOnly(xk)
    swarm.upgrader.muxer_multistream = YamuxOnly(guard)
    return swarm


def _resource_manager() -> ResourceManager:
    """Limits, and none of the parts that look at clocks, memory or failures and then refuse what the limits allow."""
    return ResourceManager(
        ResourceLimits(
            max_connections=2 * limits.CONNECTIONS_MAX,  # each counts twice while it is upgraded
            max_streams=2 * limits.CONNECTIONS_MAX * limits.STREAMS_PER_CONNECTION_MAX,
        ),
        enable_metrics=False,
        enable_connection_tracking=False,
        enable_memory_limits=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
        enable_rate_limiting=False,
    )


def _refusal(peer: PeerId, address: str, error: BaseException) -> Unavailable | Unauthenticated:
    """What a failed dial means, by what the handshake said, if it came to one."""
    match _cause(error, HandshakeFailure):
        case WrongIdentity():
            return Unauthenticated(f"whoever answers at {address} is not {peer}", peer)
        case TurnedAway() as told:
            return Unauthenticated(f"{peer} does not let this node in: {told}", peer)
        case Unwelcome() as told:
            return Unauthenticated(str(told), peer)
        case HandshakeFailure() as failure:
            return Disconnected(f"no handshake with {peer} at {address}: {failure}")
        case _:
            return Disconnected(f"{peer} does not answer at {address}")


def _inbound_failure(error: BaseLibp2pError) -> Exception:
    """What a handshake failed of, rather than libp2p's words around it."""
    match _cause(error, HandshakeFailure):
        case WrongIdentity() | Unwelcome() as failure:
            return Unauthenticated(str(failure))
        case TurnedAway() as told:
            return Disconnected(f"a visitor does not take this node for a member: {told}")
        case failure:
            return failure or error


CauseT = TypeVar("CauseT", bound=BaseException)


def _cause(error: BaseException | None, kind: type[CauseT]) -> CauseT | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error
