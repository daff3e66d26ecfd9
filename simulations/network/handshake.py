"""How two virtual networks come to a connection: TCP's handshake, the negotiations and Noise XK, in round trips.

    SYN              --->  refused at once if the machine is up and nobody listens
    negotiation      --->  a paused process is silent from here on: its kernel has answered until now
    XK 1, 3          --->  unreadable without the static; judged by the door of whoever was dialled
    verdict          <---  judged by the door of the dialler
    muxer            --->  both sides have it

Nothing here has a deadline; the caller does.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from protocols.errors import Disconnected, Unauthenticated
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.streams import Plane
from simulations.network.connection import End, Process
from simulations.network.links import Links
from simulations.network.wire import Hear, Wire

SILENT_ROUND_TRIPS: Final = 3  # negotiating encryption, XK's first two messages, negotiating the muxer


class Mistaken(Unauthenticated):
    """Another peer has proved itself where this one was dialled."""


class Unanswered(Disconnected):
    """Somebody took the connection and went away on the first message, as one does that can't read it."""


class Host(Process, Protocol):
    """One network, as the other side of a handshake sees it."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def is_running(self) -> bool: ...
    async def awake(self) -> None:
        """Returns while the process is not paused."""

    def show(self) -> bytes:
        """What it shows in a handshake."""

    def is_unreadable(self, network_id: NetworkId, contact: Contact) -> bool:
        """Whether the first message is of another network or for another key."""

    def refusal(self, peer: PeerId, shown: bytes, plane: Plane, *, dialled: bool) -> str | None:
        """What it tells the other side, if that does not get in."""

    def hold(self, end: End) -> None:
        """A connection is there."""


async def shake_hands(
    links: Links,
    trace: Hear | None,
    here: Host,
    there: Host | None,
    plane: Plane,
    contact: Contact,
    network_id: NetworkId,
) -> End:
    """This side of a new connection, which the other side hears of half a round trip later.

    `there` listens at the address of `contact` that is dialled, None if nobody does. Raises `Disconnected` and
    `Unauthenticated`.
    """
    own, target = here.peer, there.peer if there else contact.peer
    await links.cross(own, target, plane)
    await links.cross(target, own, plane)
    if there is None or not there.is_running:
        raise Disconnected(f"{contact.peer} does not answer: the connection was refused")
    await links.cross(own, target, plane, after_s=SILENT_ROUND_TRIPS * links.round_trip_s(own, target))
    await there.awake()
    is_unreadable = there.is_unreadable(network_id, contact)
    shown = here.show()
    refusal = None if is_unreadable else there.refusal(own, shown, plane, dialled=False)
    await links.cross(target, own, plane)
    if not (there.is_running and here.is_running):
        raise Disconnected(f"no handshake with {contact.peer}: the connection ended")
    if is_unreadable:
        raise Unanswered(f"no handshake with {contact.peer}: it did not answer the first message")
    if target != contact.peer:
        raise Mistaken(f"whoever answers there is not {contact.peer}", contact.peer)
    if refusal:
        raise Unauthenticated(f"{target} does not let this node in: {refusal}", target)
    refusal = here.refusal(target, there.show(), plane, dialled=True)
    if refusal:
        raise Unauthenticated(f"{target} is not let in: {refusal}", target)
    return _join(links, trace, here, there, plane, shown)


def _join(links: Links, trace: Hear | None, here: Host, there: Host, plane: Plane, shown: bytes) -> End:
    out = Wire(links.lane(here.peer, there.peer, plane), trace)
    back = Wire(links.lane(there.peer, here.peer, plane), trace)
    now_s = trio.current_time()
    near = End(there.peer, plane, True, now_s, out, back, here, there.show())
    far = End(here.peer, plane, False, now_s, back, out, there, shown)
    near.join(far)
    out.post("connect", there.hold, far)
    return near
