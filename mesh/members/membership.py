"""Who is a member, who of them is up, and what to do about it, as a machine without I/O.

One becomes a member by redeeming an invite or because a member vouched for it; members accept exactly those. Nobody stops
being one in this first form. A member is *up* while it has a connection on the control plane and has not said that it
leaves. To every member that comes up the node tells its own contact and all that it knows, so whoever was away learns
what it missed from the first member that it meets: of two nodes that moved at the same time, the one that arrives second
at a third hears of the other.

A joiner treats its inviter as a member from the request on, because the inviter's first words may overtake its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from mesh.members.address_book import AddressBook
from mesh.members.dialling import Dialling
from protocols import limits
from protocols.errors import Dishonest
from protocols.ids import PeerId
from protocols.membership import Announce, Contact, Leaving, MembersMessage, Vouch
from protocols.seams import PeerDown, PeerUp
from protocols.streams import Plane

RELAY_S: Final = 30.0  # a greeting is told within that time, or not at all

# Inputs, besides PeerUp and PeerDown ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joining:
    """This node asks `inviter` to let it in."""

    inviter: Contact


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """The inviter refused or did not answer."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The inviter let this node in and told whom it knows."""

    members: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Redeemed:
    """This node, as the inviter, let a new member in."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class Heard:
    """A message on a members stream."""

    peer: PeerId
    message: MembersMessage


@dataclass(frozen=True, slots=True)
class DialEnded:
    """A dial has succeeded or failed."""

    peer: PeerId
    plane: Plane


@dataclass(frozen=True, slots=True)
class Alarm:
    """`deadline` has passed."""


Input = Joining | JoinFailed | Joined | Redeemed | Heard | PeerUp | PeerDown | DialEnded | Alarm

# Outputs, in the order in which they are to be done ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the address book before doing what follows."""


@dataclass(frozen=True, slots=True)
class Learn:
    """Tell the network how to dial a peer."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class Admit:
    """Tell the network who the members are."""

    members: frozenset[PeerId]


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect, and answer with `DialEnded`."""

    peer: PeerId
    plane: Plane


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End all connections to a peer."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Tell:
    """Send messages to a member, in order."""

    peer: PeerId
    messages: tuple[MembersMessage, ...]


@dataclass(frozen=True, slots=True)
class MemberUp:
    """A member can be talked to."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class MemberDown:
    """A member is gone, for now."""

    peer: PeerId


MemberEvent = MemberUp | MemberDown
Output = Persist | Learn | Admit | Dial | Disconnect | Tell | MemberEvent


class Membership:
    """The machine of one node. `own` is its contact in this run; `book` holds everybody else."""

    def __init__(self, own: Contact, book: AddressBook) -> None:
        self.own: Final = own
        self._book = book
        self._inviter: Contact | None = None
        self._planes: dict[PeerId, set[Plane]] = {}  # of strangers as well: they may become members
        self._up: dict[PeerId, float] = {}  # since when
        self._dialling = Dialling(own.peer)

    @property
    def members(self) -> tuple[Contact, ...]:
        """Everybody but this node."""
        return tuple(self._book)

    @property
    def is_full(self) -> bool:
        """Counts this node itself."""
        return len(self._book) + 1 >= limits.MEMBERS_MAX

    @property
    def deadline(self) -> float:
        """When it wants an `Alarm`."""
        return self._dialling.deadline

    def is_member(self, peer: PeerId) -> bool:
        return peer in self._book

    def is_up(self, peer: PeerId) -> bool:
        return peer in self._up

    def start(self, now: float) -> list[Output]:
        """Everybody dials everybody at first: after a restart nobody else knows this node's addresses."""
        for contact in self._book:
            self._dialling.want(contact.peer, now, within_s=0.0)
        return [*map(Learn, self._book), self._admit(), *self._dial(now)]

    def handle(self, event: Input, now: float) -> list[Output]:
        """Raises `Dishonest` if a peer speaks for another."""
        match event:
            case Joining(inviter):
                self._inviter = inviter
                return [Learn(inviter), self._admit()]
            case JoinFailed():
                self._inviter = None
                return [self._admit()]
            case Joined(members):
                return self._joined(members, now)
            case Redeemed(contact):
                return self._redeem(contact, now)
            case Heard(peer, message):
                return self._hear(peer, message, now)
            case PeerUp(peer, plane):
                return self._connected(peer, plane, now)
            case PeerDown(peer, plane):
                return self._lost(peer, plane, now)
            case DialEnded(peer, plane):
                self._dialling.ended(peer, plane, now)
                return []
            case Alarm():
                return self._dial(now)
            case _:
                assert_never(event)

    # Who is a member ----------------------------------------------------------------------------------------------

    def _joined(self, members: tuple[Contact, ...], now: float) -> list[Output]:
        self._inviter = None
        outputs = self._add(members, now)
        for contact in self._book:  # some may have been vouched for before the answer came
            self._dialling.want(contact.peer, now, within_s=0.0)
        return [*outputs, self._admit(), *self._dial(now)]

    def _redeem(self, contact: Contact, now: float) -> list[Output]:
        return [*self._add((contact,), now), *self._vouch(contact, [*self._up])]

    def _hear(self, peer: PeerId, message: MembersMessage, now: float) -> list[Output]:
        if not (self.is_member(peer) or (self._inviter and self._inviter.peer == peer)):
            return []
        match message:
            case Announce(contact):
                if contact.peer != peer:
                    raise Dishonest("a peer announced the contact of another", peer)
                return self._announced(contact, now)
            case Vouch(contacts):
                return self._add(contacts, now)
            case Leaving():
                return self._leave(peer)
            case _:
                assert_never(message)

    def _announced(self, contact: Contact, now: float) -> list[Output]:
        outputs = self._add((contact,), now)
        # Whoever came up just before was greeted without this news, and may have moved as well: then the two can
        # find each other only through this node.
        recent = [peer for peer, since in self._up.items() if now - since < RELAY_S] if outputs else []
        return [*outputs, *self._vouch(contact, recent), *self._check_up(contact.peer, now)]

    def _vouch(self, contact: Contact, peers: list[PeerId]) -> list[Output]:
        return [Tell(peer, (Vouch((contact,)),)) for peer in peers if peer != contact.peer]

    def _add(self, contacts: tuple[Contact, ...], now: float) -> list[Output]:
        """`contacts` are of members now; only what is news has consequences."""
        news = [
            contact for contact in contacts if contact.peer != self.own.peer and self._book.merge(contact)
        ]
        if not news:
            return []
        for contact in news:
            # A node that is new or has moved dials by itself; this one does if it hears nothing.
            self._dialling.want(contact.peer, now, within_s=limits.REDIAL_PATIENCE_S)
            for plane in self._planes.get(contact.peer, ()):
                self._dialling.connected(contact.peer, plane, now)
        came_up = [output for contact in news for output in self._check_up(contact.peer, now)]
        return [Persist(), *map(Learn, news), self._admit(), *came_up]

    def _admit(self) -> Admit:
        provisional = {self._inviter.peer} if self._inviter else set()
        return Admit(frozenset(contact.peer for contact in self._book) | provisional)

    # Who is up ----------------------------------------------------------------------------------------------------

    def _connected(self, peer: PeerId, plane: Plane, now: float) -> list[Output]:
        self._planes.setdefault(peer, set()).add(plane)
        if not self.is_member(peer):
            return []
        self._dialling.connected(peer, plane, now)
        return self._check_up(peer, now) if plane is Plane.CONTROL else []

    def _check_up(self, peer: PeerId, now: float) -> list[Output]:
        if peer in self._up or Plane.CONTROL not in self._planes.get(peer, ()):
            return []
        self._up[peer] = now
        return [MemberUp(peer), Tell(peer, self._greeting(peer))]

    def _greeting(self, peer: PeerId) -> tuple[MembersMessage, ...]:
        others = [contact for contact in self._book if contact.peer != peer]
        step = limits.VOUCH_CONTACTS_MAX
        vouches = [Vouch(tuple(others[start : start + step])) for start in range(0, len(others), step)]
        return (Announce(self.own), *vouches)

    def _lost(self, peer: PeerId, plane: Plane, now: float) -> list[Output]:
        planes = self._planes.get(peer, set())
        planes.discard(plane)
        if not planes:
            self._planes.pop(peer, None)
        if self._dialling.is_wanted(peer):
            self._dialling.lost(peer, plane, now)
        return self._drop(peer) if plane is Plane.CONTROL else []

    def _leave(self, peer: PeerId) -> list[Output]:
        # Whoever leaves on purpose comes back by dialling; until then it would only be dialled in vain.
        self._dialling.forget(peer)
        return [*self._drop(peer), Disconnect(peer)]

    def _drop(self, peer: PeerId) -> list[Output]:
        return [] if self._up.pop(peer, None) is None else [MemberDown(peer)]

    def _dial(self, now: float) -> list[Output]:
        return [Dial(peer, plane) for peer, plane in self._dialling.due(now)]
