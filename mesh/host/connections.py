"""The connections of this node, and which of two to the same peer stays.

libp2p keeps every connection and lets streams pile up on any of them. Here a newcomer is weighed against what is there:

* dialled by the same side as the old one, or long after it: that side has lost the old one, which is dead; it ends at once;
* both sides dialled at about the same time: the one that the lower peer id dialled stays. The other takes no new streams
  and ends once those it carries have. Both sides come to the same conclusion by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

import trio

from protocols import limits
from protocols.ids import PeerId
from protocols.seams import PeerDown, PeerEvent, PeerUp
from protocols.streams import Plane

SIMULTANEOUS_S: Final = limits.DIAL_S + limits.HANDSHAKE_S  # two dials that began together end within this
RETIRE_CHECK_S: Final = 2.0  # by then both sides know which of two connections stays


class Held(Protocol):
    """What the table wants to know of a connection."""

    peer: PeerId
    plane: Plane
    dialled: bool
    opened_s: float
    is_member: bool
    is_retiring: bool

    @property
    def muxed(self) -> Hashable:
        """What it runs over, which carries no other."""

    @property
    def is_alive(self) -> bool: ...
    @property
    def is_idle(self) -> bool: ...


HeldT = TypeVar("HeldT", bound=Held)


class Verdict(Enum):
    OLD_IS_DEAD = "the dialler has lost the old one"
    OLD_RETIRES = "the new one stays"
    NEW_RETIRES = "the old one stays"


def weigh(old: Held, new: Held, own: PeerId) -> Verdict:
    """What becomes of two live connections to one peer on one plane, at the node `own`."""
    if new.dialled == old.dialled or new.opened_s - old.opened_s > SIMULTANEOUS_S:
        return Verdict.OLD_IS_DEAD
    new_dialler = own if new.dialled else new.peer
    return Verdict.OLD_RETIRES if new_dialler == min(own, new.peer) else Verdict.NEW_RETIRES


class Connections(Generic[HeldT]):
    """The table. `publish` is told when the first connection to a member on a plane is there and when the last has gone;
    `end` and `retire` are asked to carry out verdicts, without waiting."""

    def __init__(
        self,
        own: PeerId,
        publish: Callable[[PeerEvent], None],
        end: Callable[[HeldT], None],
        retire: Callable[[HeldT], None],
    ) -> None:
        self._own = own
        self._publish = publish
        self._end = end
        self._retire = retire
        self._by_muxer: dict[Hashable, HeldT] = {}
        self._by_peer: dict[tuple[PeerId, Plane], list[HeldT]] = {}
        self._up: set[tuple[PeerId, Plane]] = set()

    def __iter__(self) -> Iterator[HeldT]:
        return iter(tuple(self._by_muxer.values()))

    def to(self, peer: PeerId, plane: Plane) -> list[HeldT]:
        """The live ones, those that retire last."""
        live = [each for each in self._by_peer.get((peer, plane), ()) if each.is_alive]
        return sorted(live, key=lambda each: each.is_retiring) if len(live) > 1 else live

    def to_member(self, peer: PeerId, plane: Plane) -> list[HeldT]:
        """Those of `to` that may carry this node's streams."""
        return [each for each in self.to(peer, plane) if each.is_member]

    def with_muxer(self, muxed: Hashable) -> HeldT | None:
        return self._by_muxer.get(muxed)

    def add(self, new: HeldT) -> None:
        for known in tuple(self._by_peer.get((new.peer, new.plane), ())):
            if not known.is_alive:
                self.remove(known)
        for old in self.to(new.peer, new.plane):
            match weigh(old, new, self._own):
                case Verdict.OLD_IS_DEAD:
                    self._end(old)
                case Verdict.OLD_RETIRES:
                    self._let_retire(old)
                case Verdict.NEW_RETIRES:
                    self._let_retire(new)
        self._by_muxer[new.muxed] = new
        self._by_peer.setdefault((new.peer, new.plane), []).append(new)
        self._tell(new.peer, new.plane)

    def judged(self, connection: HeldT, *, is_member: bool) -> None:
        """A stranger has become a member, or the other way round."""
        connection.is_member = is_member
        self._tell(connection.peer, connection.plane)

    def _let_retire(self, connection: HeldT) -> None:
        if not connection.is_retiring:
            connection.is_retiring = True
            self._retire(connection)

    async def see_retire(self, connection: HeldT) -> None:
        """End a connection that has carried nothing twice in a row, unless it has become the only one."""
        was_idle = False
        while connection.is_alive:
            await trio.sleep(RETIRE_CHECK_S)
            if len(self.to(connection.peer, connection.plane)) == 1:
                connection.is_retiring = False
                return
            if was_idle and connection.is_idle:
                self._end(connection)
            was_idle = connection.is_idle

    def remove(self, connection: HeldT) -> None:
        """Idempotent; the connection is no longer alive."""
        if self._by_muxer.pop(connection.muxed, None) is None:
            return
        key = (connection.peer, connection.plane)
        self._by_peer[key].remove(connection)
        if not self._by_peer[key]:
            del self._by_peer[key]
        self._tell(connection.peer, connection.plane)

    def _tell(self, peer: PeerId, plane: Plane) -> None:
        is_up = bool(self.to_member(peer, plane))
        if is_up and (peer, plane) not in self._up:
            self._up.add((peer, plane))
            self._publish(PeerUp(peer, plane))
        elif not is_up and (peer, plane) in self._up:
            self._up.discard((peer, plane))
            self._publish(PeerDown(peer, plane))
