"""One side of a virtual connection, and how streams are opened over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import trio

from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, NoRoute, Overloaded, Unavailable
from protocols.ids import PeerId
from protocols.seams import ConnectionInfo
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


class Process(Protocol):
    """What a connection asks of the process that holds it."""

    def when_awake(self, action: Callable[[], None]) -> None:
        """Now or, if the process is paused, after that."""

    def serve(self, end: End, kind: StreamKind, stream: VirtualStream) -> Unavailable | None:
        """Take an inbound stream, or say why not."""

    def forget(self, end: End) -> None:
        """It is no longer up."""


@dataclass(eq=False, slots=True)
class End:
    """What one network holds of a connection. `wire` leads to the other side, `inbound` from it.

    `shown` is what the other side showed in the handshake, and `is_member` what that made of it.
    """

    peer: PeerId
    plane: Plane
    dialled: bool
    opened_s: float
    wire: Wire
    inbound: Wire
    process: Process
    shown: bytes = b""
    is_member: bool = False
    is_retiring: bool = False
    address: str = ""  # where it was dialled, as the peer's contact names it
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

    @property
    def muxed(self) -> End:
        return self

    @property
    def is_alive(self) -> bool:
        return self.is_up

    @property
    def is_idle(self) -> bool:
        return not (self._streams or self._openings)

    @property
    def streams(self) -> int:
        """That this side has and has not closed."""
        return len(self._streams)

    @property
    def info(self) -> ConnectionInfo:
        return ConnectionInfo(self.peer, self.plane, SECURITY, self.dialled, self.is_member, self.address)

    # Streams -----------------------------------------------------------------------------------------------------------

    async def open_stream(self, kind: StreamKind) -> VirtualStream:
        """One round trip, as negotiating a protocol takes. Raises `Unavailable`."""
        await trio.lowlevel.checkpoint()
        if len(self._streams) >= limits.STREAMS_PER_CONNECTION_MAX:
            raise Overloaded(
                f"{limits.STREAMS_PER_CONNECTION_MAX} streams to {self.peer} are open: close some first"
            )
        if not self.is_up:
            raise Disconnected(GONE)
        stream, theirs = self.make_stream(kind), self.twin.make_stream(kind)
        stream.twin, theirs.twin = theirs, stream
        opening = Opening()
        self._openings[opening] = self._streams[stream] = None
        self.wire.post(f"open {kind.name}", partial(self.twin.arrived, kind, theirs), opening)
        is_open = False
        try:
            with deadline(limits.OPEN_STREAM_S, f"{self.peer} did not answer for a stream"):
                await opening.answered.wait()
            is_open = opening.failure is None
        finally:
            self._openings.pop(opening, None)
            if not is_open:
                stream.give_up()
        if opening.failure:
            raise opening.failure
        return stream

    def make_stream(self, kind: StreamKind) -> VirtualStream:
        """One end of a stream, without its twin yet."""
        return VirtualStream(self.peer, kind, self.wire, self._forget_stream)

    def _forget_stream(self, stream: VirtualStream) -> None:
        self._streams.pop(stream, None)

    def arrived(self, kind: StreamKind, stream: VirtualStream, opening: Opening) -> None:
        """The other side opens a stream; the wire brings this."""
        if self.is_up:
            self._streams[stream] = None
            self.process.when_awake(partial(self._answer, kind, stream, opening))

    def _answer(self, kind: StreamKind, stream: VirtualStream, opening: Opening) -> None:
        if not self.is_up or stream.has_failed:
            return
        refusal = self.process.serve(self, kind, stream)
        if refusal is not None:
            stream.fail(str(refusal))
        self.wire.post("answer", opening.answer, refusal)

    # The end -----------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End it here now and, as soon as the wire has brought the news, there."""
        if self.is_up:
            self.wire.post("close", self.twin.end, None)
            self.end()

    def end(self, _: None = None) -> None:
        """Everything that ran over this connection fails; idempotent."""
        if self.is_up:
            self.inbound.close()
            if not self.twin.is_up:
                self.wire.close()  # a farewell that nobody waits for, maybe for ever
            self._go_down()

    def vanish(self) -> None:
        """This side's machine is gone without a word; what was under way from it is lost with it.

        The other side is not told. What reaches this machine once it is up again, it answers with a reset (RFC 9293, 3.10.7.1).
        """
        if self.is_up:
            self.wire.drop()
            if self.twin.is_up:
                self.inbound.lose_target(lambda: self.wire.post("reset", self.twin.end, None))
            else:
                self.inbound.close()
                self.wire.close()
            self._go_down()

    def _go_down(self) -> None:
        self.is_up = False
        for stream in tuple(self._streams):
            stream.lose(GONE)
        for opening in tuple(self._openings):
            opening.answer(Disconnected(GONE))
        self.process.forget(self)


def unhandled(kind: StreamKind) -> Unavailable:
    """What the opener hears of a kind that is not served, or not served to it."""
    return NoRoute(f"the peer does not serve {kind.name}")
