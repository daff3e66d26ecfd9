"""`protocols.seams.Network` over libp2p: two planes with one identity, Noise XK, and the policy of who may do what."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio
from libp2p.exceptions import BaseLibp2pError

from mesh.admission.identity import Identity
from mesh.feed import Feed
from mesh.host.addresses.dialling import Dialler, HostNames
from mesh.host.addresses.dnsaddr import SystemNames
from mesh.host.addresses.interfaces import Reach, advertised, bound_to, is_own, own_interfaces
from mesh.host.admission import Admission
from mesh.host.connecting import Connecting
from mesh.host.connection import Connection
from mesh.host.connections import Connections
from mesh.host.guard import Guard
from mesh.host.handshake.noise import WrongIdentity
from mesh.host.handshake.noise_xk import NoiseXk, Unanswered
from mesh.host.plane import PlaneHost
from mesh.host.quiet import silence_libp2p
from mesh.host.serving import Serving
from protocols import limits
from protocols.addresses import TcpAddress
from protocols.errors import Overloaded, Unauthenticated
from protocols.ids import NetworkId, PeerId, shortened
from protocols.membership import Contact
from protocols.seams import ConnectionInfo, Door, PeerEvent, Stream, StreamHandler
from protocols.streams import Plane, StreamKind

log = logging.getLogger("weft.host")

LISTEN: Final[Mapping[Plane, Sequence[str]]] = dict.fromkeys(Plane, ("/ip4/0.0.0.0/tcp/0",))
OPTIONS: Final[Mapping[Plane, str]] = {plane: f"listen_{plane.value}" for plane in Plane}

ANYWHERE: Final = Reach()


class Libp2pNetwork:
    """Implements `protocols.seams.Network`.

    `listen` gives the multiaddrs of each plane, port 0 for any; `options` what the user would change about them, for the
    error that says a port is taken.
    """

    def __init__(
        self,
        identity: Identity,
        network_id: NetworkId,
        listen: Mapping[Plane, Sequence[str]] = LISTEN,
        options: Mapping[Plane, str] = OPTIONS,
        reach: Reach = ANYWHERE,
        names: HostNames | None = None,
    ) -> None:
        silence_libp2p()
        self._reach = reach
        self._identity = identity
        self._listen = listen
        self._options = options
        self._admission = Admission()
        self._events: Feed[PeerEvent] = Feed()
        self._guard = Guard(BaseLibp2pError)
        self._serving = Serving(self._guard)
        self._connections = Connections(identity.peer, self._events.tell, self._end, self._start_retiring)
        self._connecting = Connecting(
            Dialler(names or SystemNames(), own_interfaces),
            self._connections,
            self._dial,
            self._is_usable,
            mistaken=WrongIdentity,
            unanswered=Unanswered,
        )
        self._hosts = {plane: self._make_host(plane, network_id) for plane in Plane}
        self._nursery: trio.Nursery | None = None

    def _make_host(self, plane: Plane, network_id: NetworkId) -> PlaneHost:
        xk = NoiseXk(
            self._identity,
            network_id,
            static_of=self._connecting.static_of,
            show=self._admission.show,
            judge=partial(self._judge, plane),
        )
        return PlaneHost(plane, self._identity, xk, self._guard, self._adopt, self._serving.serve)

    def _judge(self, plane: Plane, peer: PeerId, shown: bytes, dialled: bool) -> None:
        """Asked in a handshake: members may come, and so many strangers that members always find room."""
        if self._admission.judge(peer, shown, plane, dialled=dialled):
            return
        strangers = sum(each.plane is plane and not each.is_member for each in self._connections)
        if strangers >= limits.STRANGERS_MAX:
            raise Overloaded("too many strangers are connected, try again in a while")

    # What others may know --------------------------------------------------------------------------------------------

    @property
    def peer(self) -> PeerId:
        return self._identity.peer

    @property
    def static(self) -> bytes:
        return self._identity.static

    @property
    def faults(self) -> Mapping[str, int]:
        """How often what peers set off has failed, by the name of the error."""
        return self._guard.faults

    def addresses(self, plane: Plane) -> tuple[str, ...]:
        """At most eight, of the interfaces that there are now."""
        bound = bound_to(self._hosts[plane].addresses)
        return advertised(bound, own_interfaces(), self._reach.interfaces, self._reach.told_on(plane))

    def connections(self) -> Sequence[ConnectionInfo]:
        return [connection.info for connection in self._connections if connection.is_alive]

    def events(self) -> AsyncIterator[PeerEvent]:
        return self._events.subscribe()

    # What the node decides -------------------------------------------------------------------------------------------

    def learn(self, contact: Contact) -> None:
        self._connecting.learn(contact)

    def guard(self, door: Door) -> None:
        self._admission.guard(door)
        for connection in self._connections:
            self._judge_again(connection)

    def _judge_again(self, connection: Connection) -> bool:
        """Whether a connection may stay."""
        shown = connection.secured.shown
        try:
            is_member = self._admission.judge(
                connection.peer, shown, connection.plane, dialled=connection.dialled
            )
        except Unauthenticated as refusal:
            log.info("%s is disconnected: %s", shortened(connection.peer), refusal)
            self._end(connection)
            return False
        if connection.is_member and not is_member:
            self._end(connection)  # it may come again as the stranger that it is now
            return False
        self._connections.judged(connection, is_member=is_member)
        return True

    def handle(self, kind: StreamKind, handler: StreamHandler) -> None:
        self._serving.handle(kind, handler)

    # Connecting ------------------------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId, plane: Plane) -> None:
        if peer == self.peer:
            await trio.lowlevel.checkpoint()
        else:
            await self._connecting.connect(peer, plane)

    async def _dial(self, contact: Contact, plane: Plane, address: str) -> None:
        await self._hosts[plane].dial(contact.peer, address)

    def _is_usable(self, peer: PeerId, address: TcpAddress) -> bool:
        """Not this node's own, nor one where another peer answers right now."""
        interfaces = own_interfaces()
        for plane, host in self._hosts.items():
            if is_own(address, bound_to(host.addresses), interfaces, self._reach.told_on(plane)):
                return False
        text = str(address)
        return not any(each.address == text and each.peer != peer for each in self._connections)

    async def disconnect(self, peer: PeerId) -> None:
        for connection in self._connections:
            if connection.peer == peer:
                self._end(connection)
        await trio.lowlevel.checkpoint()

    # Connections -----------------------------------------------------------------------------------------------------

    def _adopt(self, connection: Connection) -> Connection:
        """Enter a connection in the table, once; the one that is in it."""
        known = self._connections.with_muxer(connection.muxed)
        if known is not None or not connection.is_alive:
            return known or connection
        connection.secured.on_closed = lambda: self._connections.remove(connection)
        if not self._judge_again(connection):
            return connection  # no longer welcome since its handshake
        self._connections.add(connection)
        if not connection.is_member:
            self._start(self._end_stranger, connection)
        return connection

    def _start(self, task: Callable[[Connection], Awaitable[None]], connection: Connection) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, connection)

    def _end(self, connection: Connection) -> None:
        """At once, without a word to a peer that may not be there; its streams raise `Disconnected`."""
        connection.secured.give_up()
        self._start(_let_go, connection)

    async def _end_stranger(self, connection: Connection) -> None:
        await trio.sleep(limits.STRANGER_S)
        if not connection.is_member:
            self._end(connection)

    def _start_retiring(self, connection: Connection) -> None:
        self._start(self._connections.see_retire, connection)

    # Streams ---------------------------------------------------------------------------------------------------------

    async def open_stream(self, peer: PeerId, kind: StreamKind) -> Stream:
        if peer == self.peer:
            return self._serving.open_to_self(self.peer, kind, self._nursery)
        return await self._connecting.open_stream(peer, kind)

    # Running ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Once. Raises `UserError` for an address that cannot be listened on."""
        failure: BaseException | None = None
        try:
            async with self._run():
                yield
        except BaseExceptionGroup as group:
            # The nurseries below would hide what went wrong six groups deep.
            failure = _innermost(group)
            if isinstance(failure, BaseExceptionGroup):
                raise
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as sockets:
            for plane, host in self._hosts.items():
                sockets.push_async_callback(host.let_go)
                await host.bind(self._listen[plane], self._options[plane])
            async with AsyncExitStack() as hosts:
                for host in self._hosts.values():
                    await hosts.enter_async_context(host.run())
                async with trio.open_nursery() as self._nursery:
                    try:
                        yield
                    finally:
                        self._stop()

    def _stop(self) -> None:
        for connection in self._connections:
            self._end(connection)
        self._events.close()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()


async def _let_go(connection: Connection) -> None:
    with trio.CancelScope(shield=True):
        await connection.secured.close()


def _innermost(error: BaseException) -> BaseException:
    """The one error in groups of one, or the group that has several."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
