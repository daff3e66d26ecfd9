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
from typing import cast

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
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from mesh.host import listening, noise_xk
from mesh.host.connections import Connection
from mesh.host.framing import SecureConnection
from mesh.host.guard import Guard
from mesh.host.noise_xk import NoiseXk, WrongIdentity
from mesh.host.security import XkOnly, YamuxOnly
from mesh.host.stream import MuxedStream
from mesh.members.identity import Identity
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, NoRoute, Unauthenticated
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
        self._swarm = make_swarm(identity, xk)
        self._swarm.register_notifee(_Newcomers(self._adopt))
        self._swarm.set_stream_handler(self._serve)
        self._guard = guard
        self._report = adopt
        self._handle = serve
        self._half_open = 0
        self._listeners: list[trio.SocketListener] = []
        self.addresses: tuple[str, ...] = ()

    async def bind(self, listen: Sequence[str], option: str) -> None:
        """Take the sockets, after which `addresses` are known; whoever dials now waits for `run`.

        Raises `UserError` for an address that cannot be listened on, which names `option`.
        """
        self._listeners = await listening.bind(listen, option)
        self.addresses = listening.reachable_at(self._listeners)

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
            if _has_cause(error, WrongIdentity):
                raise Unauthenticated(f"whoever answers at {address} is not {peer}", peer) from error
            raise Disconnected(
                f"{peer} does not answer at {address}, or does not let this node in"
            ) from error
        except (MultiaddrError, ValueError) as error:  # the latter for an id that is not base58
            raise NoRoute(f"{address!r} is no address, or {peer!r} no peer") from error

    async def _accept(self, stream: trio.SocketStream) -> None:
        """Runs as long as the connection, since trio closes the socket when it returns."""
        if self._half_open >= limits.HALF_OPEN_MAX:
            return
        upgraded: list[Yamux] = []
        self._half_open += 1
        try:
            await self._guard.contain("an inbound handshake", partial(self._upgrade, stream, upgraded.append))
        finally:
            self._half_open -= 1
        for muxed in upgraded:
            await muxed.event_closed.wait()

    async def _upgrade(self, stream: trio.SocketStream, keep: Callable[[Yamux], None]) -> None:
        raw = RawConnection(TrioTCPStream(stream), False)
        with deadline(limits.HANDSHAKE_S, "the handshake was not done"):
            muxed = await self._swarm.upgrade_inbound_raw_conn(raw, Multiaddr("/ip4/0.0.0.0/tcp/0"))
        assert isinstance(muxed, Yamux)
        keep(muxed)

    def _adopt(self, conn: SwarmConn) -> Connection:
        muxed, secured = conn.muxed_conn, getattr(conn.muxed_conn, "secured_conn", None)
        assert isinstance(muxed, Yamux)
        assert isinstance(secured, SecureConnection)
        peer, is_dialled = PeerId(muxed.peer_id.to_base58()), conn.direction is Direction.OUTBOUND
        return self._report(Connection(peer, self.plane, is_dialled, muxed, secured, trio.current_time()))

    async def _serve(self, stream: INetStream) -> None:
        # A stream may be accepted before its connection has been announced.
        assert isinstance(stream, NetStream)
        assert isinstance(stream.swarm_conn, SwarmConn)
        connection = self._adopt(stream.swarm_conn)
        muxed = MuxedStream(connection.peer, cast("YamuxStream", stream.muxed_stream))
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


def make_swarm(identity: Identity, xk: NoiseXk) -> Swarm:
    """A swarm that speaks XK and yamux over TCP alone, under limits of ours, and does nothing on its own."""
    swarm = new_swarm(
        key_pair=create_new_key_pair(identity.signing_seed),
        sec_opt={TProtocol(noise_xk.PROTOCOL_ID): xk},  # the default list ends in plaintext
        muxer_opt={TProtocol(YAMUX_ID): Yamux},
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
    swarm.upgrader.muxer_multistream = YamuxOnly()
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


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error is not None
