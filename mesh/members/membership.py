"""Which members are known, who of them is up, and what to do about it, as a machine without I/O.

Who is a member is decided by certificates, at the door of the network; what members say of themselves comes in their records,
which gossip spreads; who lives says the failure detector. Here connections are counted. A member is *up* while it is known by
a contact, has a connection on the control plane, and has not left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from mesh.directory.address_book import AddressBook
from mesh.members.dialling import Dialling
from protocols import limits
from protocols.ids import PeerId
from protocols.membership import Contact
from protocols.records import NodeRecord, SignedRecord
from protocols.seams import PeerDown, PeerUp
from protocols.streams import Plane

# Inputs, besides PeerUp and PeerDown ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joining:
    """This node asks `inviter` to let it in."""

    inviter: Contact


@dataclass(frozen=True, slots=True)
class Joined:
    """The inviter let this node in and told whom it knows."""

    members: tuple[Contact, ...]


@dataclass(frozen=True, slots=True)
class Met:
    """A contact of a member: of a newcomer, from an invite, or in answer to a question."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a member says of itself, judged true. `signed` is the same as it was signed."""

    record: NodeRecord
    signed: SignedRecord


@dataclass(frozen=True, slots=True)
class Banned:
    """Their membership was revoked, and with it that of `orphans`, who may come back with another sponsor."""

    peers: frozenset[PeerId]
    orphans: frozenset[PeerId] = frozenset()


@dataclass(frozen=True, slots=True)
class Left:
    """A member went on purpose."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class DialEnded:
    """A dial has succeeded or failed."""

    peer: PeerId
    plane: Plane


@dataclass(frozen=True, slots=True)
class Alarm:
    """`deadline` has passed."""


Input = Joining | Joined | Met | Recorded | Banned | Left | PeerUp | PeerDown | DialEnded | Alarm

# Outputs, in the order in which they are to be done ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the address book before doing what follows, or soon: what gossip tells it tells again."""

    at_once: bool = True


@dataclass(frozen=True, slots=True)
class Learn:
    """Tell the network how to dial a peer."""

    contact: Contact


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
class MemberUp:
    """A member can be talked to."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class MemberDown:
    """A member is gone, for now."""

    peer: PeerId


MemberEvent = MemberUp | MemberDown
Output = Persist | Learn | Dial | Disconnect | MemberEvent


class Membership:
    """The machine of the node `own`; `book` holds everybody else."""

    def __init__(self, own: PeerId, book: AddressBook) -> None:
        self._own = own
        self._book = book
        self._banned: frozenset[PeerId] = frozenset()
        # Members whose contact is not known yet as well.
        self._linked: dict[Plane, set[PeerId]] = {plane: set() for plane in Plane}
        self._up: set[PeerId] = set()
        self._dialling = Dialling(own)

    @property
    def members(self) -> tuple[Contact, ...]:
        """Everybody but this node."""
        return tuple(self._book)

    @property
    def count(self) -> int:
        """With this node itself."""
        return len(self._book) + 1

    @property
    def is_full(self) -> bool:
        return self.count >= limits.MEMBERS_MAX

    @property
    def deadline(self) -> float:
        """When it wants an `Alarm`."""
        return self._dialling.deadline

    def is_known(self, peer: PeerId) -> bool:
        return peer in self._book

    def is_up(self, peer: PeerId) -> bool:
        return peer in self._up

    @property
    def connected(self) -> frozenset[PeerId]:
        """On the control plane; of some the contact may not be known yet."""
        return frozenset(self._linked[Plane.CONTROL])

    @property
    def known(self) -> frozenset[PeerId]:
        """The peers of `members`."""
        return frozenset(self._book.peers)

    def start(self, now: float) -> list[Output]:
        """Everybody dials everybody at first: after a restart nobody else knows this node's addresses."""
        for contact in self._book:
            self._dialling.want(contact.peer, now, within_s=0.0)
        return [*(self._learn(contact.peer) for contact in self._book), *self._dial(now)]

    def handle(self, event: Input, now: float) -> list[Output]:
        match event:
            case Joining(inviter):
                return [Learn(inviter)]
            case Joined(members):
                return self._joined(members, now)
            case Met(contact):
                return self._meet((contact,), now)
            case Recorded(record, signed):
                return self._record(record, signed, now)
            case Banned(peers, orphans):
                return self._ban(peers, orphans)
            case Left(peer):
                return self._leave(peer)
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
        outputs = self._meet(members, now)
        for contact in self._book:  # some may have been heard of before the answer came
            # Not at once: the handshakes with all would hold up the news of all, which the inviter has.
            self._dialling.want(contact.peer, now, within_s=limits.JOINED_PAUSE_S)
        return outputs

    def _ban(self, peers: frozenset[PeerId], orphans: frozenset[PeerId]) -> list[Output]:
        self._banned |= peers
        # Orphans make room in the book as well: one sponsor may have filled it.
        known = [peer for peer in sorted(peers | orphans) if self.is_known(peer)]
        outputs: list[Output] = [Persist()] if known else []
        for peer in known:
            self._book.remove(peer)
            outputs += self._leave(peer)
        return outputs

    def _meet(self, contacts: tuple[Contact, ...], now: float) -> list[Output]:
        """Only what is news has consequences."""
        wanted = [contact for contact in contacts if contact.peer not in {self._own, *self._banned}]
        return self._take_news([contact.peer for contact in wanted if self._book.merge(contact)], now)

    def _record(self, record: NodeRecord, signed: SignedRecord, now: float) -> list[Output]:
        if record.peer in {self._own, *self._banned} or not self._book.merge_record(record, signed):
            return []
        return self._take_news([record.peer], now, at_once=False)

    def _take_news(self, peers: list[PeerId], now: float, *, at_once: bool = True) -> list[Output]:
        for peer in peers:
            # A node that is new or has moved dials by itself; this one does if it hears nothing.
            self._dialling.want(peer, now, within_s=limits.REDIAL_PATIENCE_S)
            for plane, linked in self._linked.items():
                if peer in linked:
                    self._dialling.connected(peer, plane, now)
        came_up = [output for peer in peers for output in self._check_up(peer)]
        return [Persist(at_once), *map(self._learn, peers), *came_up] if peers else []

    def _learn(self, peer: PeerId) -> Learn:
        contact = self._book.to_dial(peer)
        assert contact is not None, "it is in the book"
        return Learn(contact)

    # Who is up ----------------------------------------------------------------------------------------------------

    def _connected(self, peer: PeerId, plane: Plane, now: float) -> list[Output]:
        self._linked[plane].add(peer)
        self._banned -= {peer}  # the door has let it in, so it is back with another sponsor
        if not self.is_known(peer):
            return []
        self._dialling.connected(peer, plane, now)
        return self._check_up(peer) if plane is Plane.CONTROL else []

    def _check_up(self, peer: PeerId) -> list[Output]:
        if peer in self._up or peer not in self._linked[Plane.CONTROL]:
            return []
        self._up.add(peer)
        return [MemberUp(peer)]

    def _lost(self, peer: PeerId, plane: Plane, now: float) -> list[Output]:
        self._linked[plane].discard(peer)
        if self._dialling.is_wanted(peer):
            self._dialling.lost(peer, plane, now)
        return self._drop(peer) if plane is Plane.CONTROL else []

    def _leave(self, peer: PeerId) -> list[Output]:
        # Whoever leaves on purpose comes back by dialling; until then it would only be dialled in vain.
        self._dialling.forget(peer)
        return [*self._drop(peer), Disconnect(peer)]

    def _drop(self, peer: PeerId) -> list[Output]:
        if peer not in self._up:
            return []
        self._up.discard(peer)
        return [MemberDown(peer)]

    def _dial(self, now: float) -> list[Output]:
        return [Dial(peer, plane) for peer, plane in self._dialling.due(now)]
