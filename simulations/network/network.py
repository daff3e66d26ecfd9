"""What one virtual node has of the virtual internet: its addresses, connections and streams.

Who is dialled how, which of two connections to a peer stays and who may come in are decided by the real host's own code.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol

import trio

from mesh.feed import Feed, Subscription
from mesh.host.addresses.dialling import Dialler
from mesh.host.admission import Admission, may_open
from mesh.host.connecting import Connecting
from mesh.host.connections import Connections
from mesh.host.guard import Guard
from mesh.host.wire.loopback import loopback_pair
from protocols import limits
from protocols.addresses import IpAddress, TcpAddress
from protocols.errors import Disconnected, NoRoute, Unauthenticated, Unavailable
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.seams import ConnectionInfo, Door, PeerEvent, Stream, StreamHandler
from protocols.streams import Plane, StreamKind
from simulations.network.connection import End, unhandled
from simulations.network.handshake import Mistaken, Unanswered, shake_hands
from simulations.network.links import Links
from simulations.network.stream import VirtualStream
from simulations.network.wire import Hear

LINGER_S: Final = (
    5.0  # that a peer has to close its direction of a stream that was served; as the real host has it
)


class Internet(Protocol):
    """What a network asks of the internet it is on."""

    links: Links
    listeners: dict[str, VirtualNetwork]
    trace: Hear | None

    def listen(self, network: VirtualNetwork) -> str:
        """An address that nobody had before."""


class _NoNames:
    """There is no DNS here."""

    async def addresses(self, kind: str, host: str) -> tuple[IpAddress, ...]:
        await trio.lowlevel.checkpoint()
        raise NoRoute(f"there is no {kind} name {host}")


class VirtualNetwork:
    """Implements `protocols.seams.Network`."""

    def __init__(
        self,
        world: Internet,
        peer: PeerId,
        network_id: NetworkId,
        statics: Callable[[], tuple[bytes, ...]] | None = None,
    ) -> None:
        only = hashlib.sha256(f"static of {peer}".encode()).digest()
        self._statics = statics or (lambda: (only,))
        self._guard = Guard()
        self._admission = Admission()
        self._world = world
        self._peer = peer
        self._network_id = network_id
        self._nursery: trio.Nursery | None = None
        self._addresses: dict[Plane, str] = {}
        self._handlers: dict[StreamKind, StreamHandler] = {}
        self._events: Feed[PeerEvent] = Feed()
        self._connections: Connections[End] = Connections(
            peer, self._events.tell, End.stop, self._start_retiring
        )
        self._connecting: Connecting[End] = Connecting(
            Dialler(_NoNames(), lambda: ()),
            self._connections,
            self._dial,
            self._is_usable,
            mistaken=Mistaken,
            unanswered=Unanswered,
        )
        self._awake = trio.Event()
        self._awake.set()
        self._put_off: list[Callable[[], None]] = []

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def faults(self) -> Mapping[str, int]:
        """How often what peers set off has failed, by the name of the error."""
        return self._guard.faults

    @property
    def static(self) -> bytes:
        return self._statics()[0]

    def addresses(self, plane: Plane) -> tuple[str, ...]:
        return (self._addresses[plane],)

    def learn(self, contact: Contact) -> None:
        self._connecting.learn(contact)

    def guard(self, door: Door) -> None:
        self._admission.guard(door)
        for end in self._connections:
            self._judge_again(end)

    def handle(self, kind: StreamKind, handler: StreamHandler) -> None:
        self._handlers[kind] = handler

    def connections(self) -> Sequence[ConnectionInfo]:
        return [end.info for end in self._connections if end.is_up]

    def events(self) -> Subscription[PeerEvent]:
        return self._events.subscribe()

    # The process and its machine -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._addresses = {plane: self._world.listen(self) for plane in Plane}
            try:
                yield
            finally:
                self.die()
                self._events.close()
                nursery.cancel_scope.cancel()

    @property
    def is_running(self) -> bool:
        return self._nursery is not None

    def die(self) -> None:
        """Stop listening and end every connection; the others hear of it as fast as the links allow."""
        self._stop_listening()
        for end in self._connections:
            end.stop()

    def vanish(self) -> None:
        """As `die`, and nobody hears of it."""
        self._stop_listening()
        for end in self._connections:
            end.vanish()

    def _stop_listening(self) -> None:
        self._nursery = None
        for address in self._addresses.values():
            if self._world.listeners.get(address) is self:  # and not the process that came after this one
                del self._world.listeners[address]
        self._put_off.clear()
        self._awake.set()

    def pause(self) -> None:
        """What the kernel does goes on; what the process would answer waits."""
        if self._awake.is_set():
            self._awake = trio.Event()

    def resume(self) -> None:
        self._awake.set()
        put_off, self._put_off = self._put_off, []
        for action in put_off:
            action()

    async def awake(self) -> None:
        await self._awake.wait()

    def when_awake(self, action: Callable[[], None]) -> None:
        if self._awake.is_set():
            action()
        else:
            self._put_off.append(action)

    # Connections ---------------------------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId, plane: Plane) -> None:
        if peer == self._peer:
            await trio.lowlevel.checkpoint()
        else:
            await self._connecting.connect(peer, plane)

    async def disconnect(self, peer: PeerId) -> None:
        for end in self.ends_to(peer):
            end.stop()
        await trio.lowlevel.checkpoint()

    def ends_to(self, peer: PeerId) -> list[End]:
        return [end for end in self._connections if end.peer == peer]

    async def _dial(self, contact: Contact, plane: Plane, address: str) -> None:
        there = self._world.listeners.get(address)
        links, trace = self._world.links, self._world.trace
        self._hold(await shake_hands(links, trace, self, there, plane, contact, self._network_id))

    def _is_usable(self, peer: PeerId, address: TcpAddress) -> bool:
        """Not this node's own, nor one where another peer answers right now."""
        text = str(address)
        return text not in self._addresses.values() and not any(
            end.address == text and end.peer != peer for end in self._connections
        )

    def show(self) -> bytes:
        return self._admission.show()

    def is_unreadable(self, network_id: NetworkId, contact: Contact) -> bool:
        return network_id != self._network_id or contact.static not in self._statics()

    def refusal(self, peer: PeerId, shown: bytes, plane: Plane, *, dialled: bool) -> str | None:
        try:
            is_member = self._admission.judge(peer, shown, plane, dialled=dialled)
        except Unauthenticated as error:
            self._guard.faults[type(error).__name__] += 1
            return str(error)
        if is_member:
            return None
        strangers = sum(end.plane is plane and not end.is_member for end in self._connections)
        if strangers < limits.STRANGERS_MAX:
            return None
        return "too many strangers are connected, try again in a while"

    def hold(self, end: End) -> None:
        self.when_awake(partial(self._hold, end))

    def _hold(self, end: End) -> None:
        if self._nursery is None:
            end.stop()
        if not end.is_up or not self._judge_again(end):
            return
        self._connections.add(end)
        if not end.is_member:
            self._start(self._end_stranger, end)

    def _judge_again(self, end: End) -> bool:
        """Whether it may stay."""
        try:
            is_member = self._admission.judge(end.peer, end.shown, end.plane, dialled=end.dialled)
        except Unauthenticated:
            end.stop()
            return False
        if end.is_member and not is_member:
            end.stop()  # it may come again as the stranger that it is now
            return False
        self._connections.judged(end, is_member=is_member)
        return True

    def _start(self, task: Callable[[End], Awaitable[None]], end: End) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, end)

    def _start_retiring(self, end: End) -> None:
        self._start(self._connections.see_retire, end)

    async def _end_stranger(self, end: End) -> None:
        await trio.sleep(limits.STRANGER_S)
        if not end.is_member:
            end.stop()

    def forget(self, end: End) -> None:
        self._connections.remove(end)

    # Streams -------------------------------------------------------------------------------------------------------------

    async def open_stream(self, peer: PeerId, kind: StreamKind) -> Stream:
        if peer == self._peer:
            return await self._open_to_oneself(kind)
        return await self._connecting.open_stream(peer, kind)

    async def _open_to_oneself(self, kind: StreamKind) -> Stream:
        await trio.lowlevel.checkpoint()
        if kind not in self._handlers or self._nursery is None:
            raise unhandled(kind)
        near, far = loopback_pair(self._peer)
        self._nursery.start_soon(self._guard.serve, kind.name, far, self._handlers[kind])
        return near

    def serve(self, end: End, kind: StreamKind, stream: VirtualStream) -> Unavailable | None:
        if not may_open(kind, is_member=end.is_member):
            self._guard.faults[Unauthenticated.__name__] += 1
            return unhandled(kind)
        if kind not in self._handlers or kind.plane is not end.plane or not self._nursery:
            return unhandled(kind)
        self._nursery.start_soon(self._serve, kind, stream)
        return None

    async def _serve(self, kind: StreamKind, stream: VirtualStream) -> None:
        try:
            await self._guard.serve(kind.name, stream, self._handlers[kind])
            if not stream.has_failed:
                # What it still sends is not wanted, but it gets the time to close its direction.
                with trio.move_on_after(LINGER_S), suppress(Disconnected):
                    while await stream.receive():
                        pass
        finally:
            stream.give_up()
