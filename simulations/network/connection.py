"""One side of a virtual connection, and how streams are opened over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from protocols import limits
from protocols.errors import Disconnected, NoRoute, Unavailable
from protocols.ids import PeerId
from protocols.streams import Plane, StreamKind
from simulations.network.stream import VirtualStream
from simulations.network.wire import Wire

SECURITY: Final = "/weft/noise-xk/1"  # the seam's users see no difference
GONE: Final = "the connection has ended"


@dataclass(eq=False, slots=True)
class Opening:
    """A stream that the other side has not answered for yet."""

    answered: trio.Event = field(default_factory=trio.Event)
    failure: Unavailable | None = None

    def answer(self, failure: Unavailable | None) -> None:
        self.failure = self.failure or failure
        self.answered.set()


Accept = Callable[["End", StreamKind, VirtualStream], Unavailable | None]
"""What a network does with an inbound stream; gives the reason if it refuses."""


@dataclass(eq=False, slots=True)
class End:
    """What one network holds of a connection. `wire` leads to the other side, `inbound` from it.

    `shown` is what the other side showed in the handshake, and `is_member` what that made of it.
    """

    peer: PeerId
    plane: Plane
    dialled: bool
    wire: Wire
    inbound: Wire
    accept: Accept
    on_stopped: Callable[[End], None]
    shown: bytes = b""
    is_member: bool = False
    address: str = ""  # where it was dialled
    is_up: bool = True
    _streams: dict[VirtualStream, None] = field(default_factory=dict)
    _openings: dict[Opening, None] = field(default_factory=dict)
    _twin: End | None = None

    def join(self, twin: End) -> None:
        self._twin, twin._twin = twin, self

    @property
    def twin(self) -> End:
        assert self._twin is not None
        return self._twin

    async def open_stream(self, kind: StreamKind) -> VirtualStream:
        """One round trip, as negotiating a protocol takes. Raises `Unavailable`; the caller sets the deadline."""
        if len(self._streams) >= limits.STREAMS_PER_CONNECTION_MAX:
            raise Unavailable(f"too many streams to {self.peer}")
        if not self.is_up:
            raise Disconnected(GONE)
        stream, theirs = self.make_stream(), self.twin.make_stream()
        stream.twin, theirs.twin = theirs, stream
        opening = Opening()
        self._openings[opening] = self._streams[stream] = None
        self.wire.post(partial(self.twin.arrived, kind, theirs, opening))
        is_open = False
        try:
            await opening.answered.wait()
            is_open = opening.failure is None
        finally:
            self._openings.pop(opening, None)
            if not is_open:
                await stream.reset()
        if opening.failure:
            raise opening.failure
        return stream

    def make_stream(self) -> VirtualStream:
        """One end of a stream, without its twin yet."""
        return VirtualStream(self.peer, self.wire, lambda stream: self._streams.pop(stream, None))

    def arrived(self, kind: StreamKind, stream: VirtualStream, opening: Opening) -> None:
        """The other side opens a stream; the wire brings this."""
        if not self.is_up:
            return
        self._streams[stream] = None
        refusal = self.accept(self, kind, stream)
        if refusal is not None:
            stream.fail(str(refusal))
        self.wire.post(partial(opening.answer, refusal))

    def stop(self) -> None:
        """End it here now and, as soon as the wire has brought the news, there."""
        if self.is_up:
            self.wire.post(self.twin.ended)
            self.wire.finish()
            self.ended()

    def ended(self) -> None:
        """Everything that ran over this connection fails; idempotent."""
        if not self.is_up:
            return
        self.is_up = False
        self.inbound.finish()
        for stream in tuple(self._streams):
            stream.fail(GONE)
        for opening in tuple(self._openings):
            opening.answer(Disconnected(GONE))
        self.on_stopped(self)


def unhandled(kind: StreamKind) -> Unavailable:
    """What the opener hears of a kind that is not served, or not served to it."""
    return NoRoute(f"the peer does not serve {kind.name}")
