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

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.stream_muxer.yamux.yamux import Yamux

from mesh.host import negotiation
from mesh.host.framing import SecureConnection
from mesh.host.stream import MuxedStream, is_lost
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, Malformed, Overloaded
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
    muxed: Yamux
    secured: SecureConnection
    opened_s: float
    is_retiring: bool = False
    opening: int = 0
    serving: int = 0

    @property
    def is_alive(self) -> bool:
        return not is_lost(self.muxed)

    @property
    def is_idle(self) -> bool:
        return not (self.muxed.streams or self.opening or self.serving)

    @property
    def info(self) -> ConnectionInfo:
        security = self.secured.negotiated_security_protocol
        return ConnectionInfo(self.peer, self.plane, security, self.dialled)

    async def open_stream(self, kind: StreamKind) -> MuxedStream:
        """Raises `Unavailable`: `Overloaded` at the limit of one connection, where libp2p would wait in silence."""
        own = sum(stream.is_initiator for stream in self.muxed.streams.values())
        if own + self.opening >= limits.STREAMS_PER_CONNECTION_MAX:
            raise Overloaded(
                f"{limits.STREAMS_PER_CONNECTION_MAX} streams to {self.peer} are open: close some first"
            )
        self.opening += 1
        try:
            with deadline(limits.OPEN_STREAM_S, f"{self.peer} did not answer for a stream"):
                return await self._negotiate(kind)
        finally:
            self.opening -= 1

    async def _negotiate(self, kind: StreamKind) -> MuxedStream:
        try:
            # Shielded: a cancelled open keeps its slot for ever. The connection bounds how long its writes last.
            with trio.CancelScope(shield=True):
                stream = MuxedStream(self.peer, await self.muxed.open_stream())
        except BaseLibp2pError as error:
            raise Disconnected(f"the connection to {self.peer} ended") from error
        agreed = False
        try:
            await negotiation.propose(stream, kind.name)
            agreed = True
        except Malformed as error:
            raise Malformed(str(error), self.peer) from error
        finally:
            if not agreed:
                with trio.move_on_after(1, shield=True):
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
    """The table. `publish` is told when the first connection to a peer on a plane is there and when the last has gone;
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
        self._by_muxer: dict[Yamux, Connection] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._by_muxer.values()))

    def to(self, peer: PeerId, plane: Plane) -> list[Connection]:
        """The live ones, those that retire last."""
        live = [each for each in self if each.peer == peer and each.plane is plane and each.is_alive]
        return sorted(live, key=lambda each: each.is_retiring)

    def with_muxer(self, muxed: Yamux) -> Connection | None:
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
        is_first = not self.to(new.peer, new.plane)
        self._by_muxer[new.muxed] = new
        if is_first:
            self._publish(PeerUp(new.peer, new.plane))

    def _let_retire(self, connection: Connection) -> None:
        if not connection.is_retiring:
            connection.is_retiring = True
            self._retire(connection)

    def remove(self, connection: Connection) -> None:
        """Idempotent; the connection is no longer alive."""
        if self._by_muxer.pop(connection.muxed, None) is None:
            return
        if not self.to(connection.peer, connection.plane):
            self._publish(PeerDown(connection.peer, connection.plane))
