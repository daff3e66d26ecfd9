"""What one virtual node has of the virtual internet: its addresses, connections and streams."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import trio

from mesh.feed import Feed, Subscription
from mesh.host.admission import Admission, may_open
from mesh.host.guard import Guard
from mesh.host.wire.loopback import loopback_pair
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, NoRoute, RemoteFault, Unauthenticated, Unavailable
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.seams import ConnectionInfo, Door, PeerDown, PeerEvent, PeerUp, Stream, StreamHandler
from protocols.streams import Plane, StreamKind
from simulations.network.connection import SECURITY, End, unhandled
from simulations.network.stream import VirtualStream
from simulations.network.wire import Links, Wire


class Internet(Protocol):
    """What a network asks of the internet it is on."""

    links: Links
    listeners: dict[str, VirtualNetwork]

    def listen(self, network: VirtualNetwork) -> str:
        """An address that nobody had before."""


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
        self._contacts: dict[PeerId, Contact] = {}
        self._handlers: dict[StreamKind, StreamHandler] = {}
        self._ends: dict[tuple[PeerId, Plane], list[End]] = {}
        self._dialling: defaultdict[tuple[PeerId, Plane], trio.Lock] = defaultdict(trio.Lock)
        self._up: set[tuple[PeerId, Plane]] = set()
        self._events: Feed[PeerEvent] = Feed()

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
        self._contacts[contact.peer] = contact

    def guard(self, door: Door) -> None:
        self._admission.guard(door)
        for end in self._all_ends():
            self._judge(end)

    def handle(self, kind: StreamKind, handler: StreamHandler) -> None:
        self._handlers[kind] = handler

    def connections(self) -> Sequence[ConnectionInfo]:
        return [
            ConnectionInfo(end.peer, end.plane, SECURITY, end.dialled, end.is_member, end.address)
            for ends in self._ends.values()
            for end in ends
        ]

    def events(self) -> Subscription[PeerEvent]:
        return self._events.subscribe()

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

    def die(self) -> None:
        """Stop listening and end every connection; the others hear of it as fast as the links allow."""
        self._nursery = None
        for address in self._addresses.values():
            self._world.listeners.pop(address, None)
        for end in self._all_ends():
            end.stop()

    # Connections --------------------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId, plane: Plane) -> None:
        if peer != self._peer:
            await self._connected(peer, plane)

    async def disconnect(self, peer: PeerId) -> None:
        await trio.lowlevel.checkpoint()
        for end in self._all_ends():
            if end.peer == peer:
                end.stop()

    async def _connected(self, peer: PeerId, plane: Plane) -> End:
        async with self._dialling[peer, plane]:
            for end in self._ends.get((peer, plane), ()):
                if end.is_member:
                    return end
            if peer not in self._contacts:
                raise NoRoute(f"no address of {peer} is known")
            contact = self._contacts[peer]
            failure: Unavailable | RemoteFault = NoRoute(f"{peer} has no address on the {plane.value} plane")
            for address in contact.control if plane is Plane.CONTROL else contact.data:
                try:
                    with deadline(limits.DIAL_S, f"no connection to {peer} at {address}"):
                        return await self._dial(contact, plane, address)
                except (Unavailable, Unauthenticated) as error:
                    failure = error
            raise failure

    async def _dial(self, contact: Contact, plane: Plane, address: str) -> End:
        links = self._world.links
        await links.cross(self._peer, contact.peer)
        there = self._world.listeners.get(address)
        if there is not None and there.is_unreadable(self._network_id, contact):
            raise Disconnected(f"no handshake with {contact.peer} at {address}")
        shown = self._admission.show()
        refusal = there.refusal(self._peer, shown, plane, dialled=False) if there else None
        await links.cross(contact.peer, self._peer)
        if there is None or there is not self._world.listeners.get(address) or self._nursery is None:
            raise Disconnected(f"nobody listens at {address}")
        if there.peer != contact.peer:
            raise Unauthenticated(f"whoever answers at {address} is not {contact.peer}", contact.peer)
        if refusal:
            raise Unauthenticated(f"{there.peer} does not let this node in: {refusal}", there.peer)
        refusal = self.refusal(there.peer, there.show(), plane, dialled=True)
        if refusal:
            raise Unauthenticated(f"{there.peer} is not let in: {refusal}", there.peer)
        end = self._join(there, plane, shown)
        end.address = address
        return end

    def _join(self, there: VirtualNetwork, plane: Plane, shown: bytes) -> End:
        links = self._world.links
        out, back = Wire(links, self._peer, there.peer), Wire(links, there.peer, self._peer)
        near = End(there.peer, plane, True, out, back, self._accept, self._forget, there.show())
        far = End(self._peer, plane, False, back, out, there._accept, there._forget, shown)
        near.join(far)
        out.post(partial(there._hold, far))
        there._start(out)
        self._start(back)
        self._hold(near)
        return near

    def show(self) -> bytes:
        """What it shows in a handshake."""
        return self._admission.show()

    def is_unreadable(self, network_id: NetworkId, contact: Contact) -> bool:
        """Whether the first message of a handshake is of another network or for another key."""
        return network_id != self._network_id or contact.static not in self._statics()

    def refusal(self, peer: PeerId, shown: bytes, plane: Plane, *, dialled: bool) -> str | None:
        """What the handshake would tell the other side, if it does not get in."""
        try:
            is_member = self._admission.judge(peer, shown, plane, dialled=dialled)
        except Unauthenticated as error:
            self._guard.faults[type(error).__name__] += 1
            return str(error)
        if is_member or sum(not end.is_member for end in self._all_ends()) < limits.STRANGERS_MAX:
            return None
        return "too many strangers are connected, try again in a while"

    def _start(self, wire: Wire) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(wire.carry)

    def _hold(self, end: End) -> None:
        if not end.is_up:
            return
        self._ends.setdefault((end.peer, end.plane), []).append(end)
        self._judge(end)
        if end.is_up and not end.is_member and self._nursery:
            self._nursery.start_soon(self._end_stranger, end)

    def _judge(self, end: End) -> None:
        was_member = end.is_member
        try:
            end.is_member = self._admission.judge(end.peer, end.shown, end.plane, dialled=end.dialled)
        except Unauthenticated:
            end.is_member = False
            end.stop()
        if was_member and not end.is_member:
            end.stop()  # it may come again as the stranger that it is now
        self._tell(end.peer, end.plane)

    async def _end_stranger(self, end: End) -> None:
        await trio.sleep(limits.STRANGER_S)
        if not end.is_member:
            end.stop()

    def _forget(self, end: End) -> None:
        ends = self._ends.get((end.peer, end.plane), [])
        if end in ends:
            ends.remove(end)
            if not ends:
                del self._ends[end.peer, end.plane]
        self._tell(end.peer, end.plane)

    def _tell(self, peer: PeerId, plane: Plane) -> None:
        is_up = any(end.is_member for end in self._ends.get((peer, plane), ()))
        if is_up and (peer, plane) not in self._up:
            self._up.add((peer, plane))
            self._events.tell(PeerUp(peer, plane))
        elif not is_up and (peer, plane) in self._up:
            self._up.discard((peer, plane))
            self._events.tell(PeerDown(peer, plane))

    def _all_ends(self) -> list[End]:
        return [end for ends in self._ends.values() for end in ends]

    # Streams ------------------------------------------------------------------------------------------------------

    async def open_stream(self, peer: PeerId, kind: StreamKind) -> Stream:
        if peer == self._peer:
            return await self._open_to_oneself(kind)
        end = await self._connected(peer, kind.plane)
        with deadline(limits.OPEN_STREAM_S, f"no stream {kind.name} to {peer}"):
            return await end.open_stream(kind)

    async def _open_to_oneself(self, kind: StreamKind) -> Stream:
        await trio.lowlevel.checkpoint()
        if kind not in self._handlers or self._nursery is None:
            raise unhandled(kind)
        near, far = loopback_pair(self._peer)
        self._nursery.start_soon(self._guard.serve, kind.name, far, self._handlers[kind])
        return near

    def _accept(self, end: End, kind: StreamKind, stream: VirtualStream) -> Unavailable | None:
        if not may_open(kind, is_member=end.is_member):
            self._guard.faults[Unauthenticated.__name__] += 1
            return unhandled(kind)
        if kind not in self._handlers or kind.plane is not end.plane or not self._nursery:
            return unhandled(kind)
        self._nursery.start_soon(self._guard.serve, kind.name, stream, self._handlers[kind])
        return None
