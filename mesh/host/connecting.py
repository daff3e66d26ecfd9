"""How a node comes to its connections and streams: whom it knows, where they answered last, and one dial at a time.

What dials an address is given from outside, so that these rules hold on any network. Nothing here remembers a failure but
`Refusals`: how long to leave a peer alone is decided above.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import trio

from mesh.host.addresses.dialling import Candidate, Dialler, Refusals, came_of
from mesh.host.connections import Connections, Held
from protocols import limits
from protocols.addresses import TcpAddress
from protocols.errors import Disconnected, NoRoute, Overloaded, RemoteFault, Unauthenticated, Unavailable
from protocols.ids import PeerId
from protocols.membership import Contact
from protocols.seams import Stream
from protocols.streams import Plane, StreamKind

OPEN_ATTEMPTS: Final = 2


class Dialled(Held, Protocol):
    """A connection that carries streams. `address` is where it was dialled, as the peer's contact names it."""

    address: str

    async def open_stream(self, kind: StreamKind) -> Stream:
        """Within `OPEN_STREAM_S`. Raises `Unavailable`."""


DialledT = TypeVar("DialledT", bound=Dialled)
Dial = Callable[[Contact, Plane, str], Awaitable[None]]
"""One address, one attempt. Raises `Unavailable` or `Unauthenticated`."""
IsUsable = Callable[[PeerId, TcpAddress], bool]


@dataclass(slots=True)
class _Acquaintance:
    """How to dial a peer, where it answered last, and that only one task dials at a time on each plane."""

    contact: Contact
    good: dict[Plane, str] = field(default_factory=dict)
    refusals: Refusals = field(default_factory=Refusals)
    dialling: dict[Plane, trio.Lock] = field(default_factory=lambda: {plane: trio.Lock() for plane in Plane})

    def addresses(self, plane: Plane) -> Sequence[str]:
        return self.contact.control if plane is Plane.CONTROL else self.contact.data


class Connecting(Generic[DialledT]):
    """Of one node. `mistaken` is the error of an address where another peer has proved itself, `unanswered` that of one where
    somebody takes the connection and no handshake comes about; each may also be the cause of what `dial` raises."""

    def __init__(
        self,
        dialler: Dialler,
        connections: Connections[DialledT],
        dial: Dial,
        is_usable: IsUsable,
        mistaken: type[BaseException],
        unanswered: type[BaseException],
    ) -> None:
        self._dialler = dialler
        self._connections = connections
        self._dial_address = dial
        self._is_usable = is_usable
        self._mistaken = mistaken
        self._unanswered = unanswered
        self._acquaintances: dict[PeerId, _Acquaintance] = {}

    def learn(self, contact: Contact) -> None:
        """Raises `Overloaded` if there is no room for another peer."""
        known = self._acquaintances.get(contact.peer)
        if known is not None:
            if contact.sequence > known.contact.sequence:
                known.refusals.clear()
            known.contact = contact
            return
        if len(self._acquaintances) >= limits.MEMBERS_MAX:
            self._forget_somebody()
        self._acquaintances[contact.peer] = _Acquaintance(contact)

    def _forget_somebody(self) -> None:
        for peer in self._acquaintances:
            if not any(each.peer == peer for each in self._connections):
                del self._acquaintances[peer]
                return
        raise Overloaded(f"{limits.MEMBERS_MAX} members are connected, and there is room for no more")

    def static_of(self, peer: PeerId) -> bytes | None:
        known = self._acquaintances.get(peer)
        return None if known is None else known.contact.static

    async def connect(self, peer: PeerId, plane: Plane) -> None:
        """Raises `Unavailable` or `Unauthenticated`."""
        await trio.lowlevel.checkpoint()
        if self._connections.to_member(peer, plane):
            return
        known = self._acquaintances.get(peer)
        if known is None:
            raise NoRoute(f"no address of {peer} is known")
        async with known.dialling[plane]:
            if not self._connections.to_member(peer, plane):
                await self._dial(known, plane)

    async def _dial(self, known: _Acquaintance, plane: Plane) -> None:
        peer, now = known.contact.peer, trio.current_time()
        allowed = [each for each in known.addresses(plane) if known.refusals.may_dial(each, now)]
        if not allowed:
            raise NoRoute(f"no {plane.value} address of {peer} is left to dial")
        is_usable, attempt = partial(self._is_usable, peer), partial(self._try, known, plane)
        try:
            winner = await self._dialler.first_to_answer(
                allowed, known.good.get(plane, ""), is_usable, attempt
            )
        except (Unavailable, RemoteFault):
            if not self._connections.to_member(peer, plane):  # the peer may have dialled meanwhile
                raise
        else:
            known.good[plane] = winner.named

    async def _try(self, known: _Acquaintance, plane: Plane, candidate: Candidate) -> None:
        peer = known.contact.peer
        if self._connections.to_member(peer, plane):
            return
        try:
            await self._dial_address(known.contact, plane, str(candidate.address))
        except (Unavailable, Unauthenticated) as error:
            is_proven = came_of(error, self._mistaken)
            if is_proven or came_of(error, self._unanswered):
                known.refusals.refused(candidate.named, trio.current_time(), is_proven=is_proven)
            raise
        for connection in self._connections.to_member(peer, plane):
            if connection.dialled and not connection.address:
                connection.address = candidate.named

    async def open_stream(self, peer: PeerId, kind: StreamKind) -> Stream:
        """Connecting first if need be. Raises `Unavailable` or `Unauthenticated`."""
        for _ in range(OPEN_ATTEMPTS):
            await self.connect(peer, kind.plane)
            for connection in self._connections.to_member(peer, kind.plane)[:1]:
                try:
                    return await connection.open_stream(kind)
                except Disconnected:
                    if connection.is_alive:
                        raise  # the stream was refused; a connection that died under it is dialled anew
        raise Disconnected(f"the connections to {peer} end as soon as they are made")
