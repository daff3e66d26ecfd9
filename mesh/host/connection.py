"""One yamux connection over Noise, with what the table of connections and the swarm want to know of it."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.host.handshake import negotiation
from mesh.host.wire.framing import SecureConnection
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.stream import MuxedStream
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import PeerId
from protocols.seams import ConnectionInfo
from protocols.streams import Plane, StreamKind


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
