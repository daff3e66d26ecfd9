"""The connections of this node, and which of two to the same peer stays.

libp2p keeps every connection and lets streams pile up on any of them. Here a newcomer is weighed against what is there:

* dialled by the same side as the old one, or long after it: that side has lost the old one, which is dead; it ends at once;
* both sides dialled at about the same time: the one that the lower peer id dialled stays. The other takes no new streams
  and ends once those it carries have. Both sides come to the same conclusion by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mesh.host.handshake import negotiation
from mesh.host.wire.framing import SecureConnection
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.stream import MuxedStream
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import PeerId
from protocols.seams import ConnectionInfo, PeerDown, PeerEvent, PeerUp
from protocols.streams import Plane, StreamKind

SIMULTANEOUS_S: Final = limits.DIAL_S + limits.HANDSHAKE_S  # two dials that began together end within this


@dataclass(eq=False, slots=True)
class Connection:
    """One yamux connection over Noise."""

    peer: PeerId
    plane: Plane
    dialled: bool
    muxed: Muxer
    secured: SecureConnection
    opened_s: float
    is_member: bool = False
    address: str = ""  # where it was dialled, as the peer's contact names it
    is_retiring: bool = False
    opening: int = 0
    serving: int = 0

    @property
    def is_alive(self) -> bool:
        return self.muxed.is_open

    @property
    def is_idle(self) -> bool:
        return not (self.muxed.has_streams or self.opening or self.serving)

    @property
    def info(self) -> ConnectionInfo:
        security = self.secured.negotiated_security_protocol
        return ConnectionInfo(self.peer, self.plane, security, self.dialled, self.is_member, self.address)

    async def open_stream(self, kind: StreamKind) -> MuxedStream:
        """Raises `Unavailable`: `Overloaded` at the limit of one connection."""
        self.opening += 1
        try:
            with deadline(limits.OPEN_STREAM_S, f"{self.peer} did not answer for a stream"):
                return await self._negotiate(kind)
        finally:
            self.opening -= 1

    async def _negotiate(self, kind: StreamKind) -> MuxedStream:
        stream = await self.muxed.open_stream(kind.priority)
        agreed = False
        try:
            await negotiation.propose(stream, kind.name)
            agreed = True
        except Malformed as error:
            raise Malformed(str(error), self.peer) from error
        finally:
            if not agreed:
                await stream.reset()
        return stream


class Verdict(Enum):
    OLD_IS_DEAD = "the dialler has lost the old one"
    OLD_RETIRES = "the new one stays"
    NEW_RETIRES = "the old one stays"


def weigh(old: Connection, new: Connection, own: PeerId) -> Verdict:
    """What becomes of two live connections to one peer on one plane, at the node `own`."""
    if new.dialled == old.dialled or new.opened_s - old.opened_s > SIMULTANEOUS_S:
        return Verdict.OLD_IS_DEAD
    new_dialler = own if new.dialled else new.peer
    return Verdict.OLD_RETIRES if new_dialler == min(own, new.peer) else Verdict.NEW_RETIRES


class Connections:
    """The table. `publish` is told when the first connection to a member on a plane is there and when the last has gone;
    `end` and `retire` are asked to carry out verdicts, without waiting."""

    def __init__(
        self,
        own: PeerId,
        publish: Callable[[PeerEvent], None],
        end: Callable[[Connection], None],
        retire: Callable[[Connection], None],
    ) -> None:
        self._own = own
        self._publish = publish
        self._end = end
        self._retire = retire
        self._by_muxer: dict[Muxer, Connection] = {}
        self._up: set[tuple[PeerId, Plane]] = set()

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_muxer.values()))

    def to(self, peer: PeerId, plane: Plane) -> list[Connection]:
        """The live ones, those that retire last."""
        live = [each for each in self if each.peer == peer and each.plane is plane and each.is_alive]
        return sorted(live, key=lambda each: each.is_retiring)

    def to_member(self, peer: PeerId, plane: Plane) -> list[Connection]:
        """Those of `to` that may carry this node's streams."""
        return [each for each in self.to(peer, plane) if each.is_member]

    def with_muxer(self, muxed: Muxer) -> Connection | None:
        return self._by_muxer.get(muxed)

    def add(self, new: Connection) -> None:
        for known in self:
            if (known.peer, known.plane) == (new.peer, new.plane) and not known.is_alive:
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
        self._tell(new.peer, new.plane)

    def judged(self, connection: Connection, *, is_member: bool) -> None:
        """A stranger has become a member, or the other way round."""
        connection.is_member = is_member
        self._tell(connection.peer, connection.plane)

    def _let_retire(self, connection: Connection) -> None:
        if not connection.is_retiring:
            connection.is_retiring = True
            self._retire(connection)

    def remove(self, connection: Connection) -> None:
        """Idempotent; the connection is no longer alive."""
        if self._by_muxer.pop(connection.muxed, None) is None:
            return
        self._tell(connection.peer, connection.plane)

    def _tell(self, peer: PeerId, plane: Plane) -> None:
        is_up = bool(self.to_member(peer, plane))
        if is_up and (peer, plane) not in self._up:
            self._up.add((peer, plane))
            self._publish(PeerUp(peer, plane))
        elif not is_up and (peer, plane) in self._up:
            self._up.discard((peer, plane))
            self._publish(PeerDown(peer, plane))
