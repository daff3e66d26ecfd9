"""Yamux, the pure machine: frames in, the state of every stream, and the frames to answer with. Wire-compatible with
hashicorp's specification as libp2p speaks it under `/yamux/1.0.0`.

    frame = version 0 | type | flags | stream | length      12 bytes, big-endian; DATA has `length` bytes behind it

    idle --SYN--> open --our FIN--> ended here --their FIN--> gone
                   |  \\---their FIN--> ended there --our FIN--> gone
                    \\--RST of either, from any state--------> gone

Bodies go to their stream's inbox as they arrive, however they are cut; nothing waits for a frame to be whole. What the peer
may have on its way to a stream is its window: that, and a bound on how many streams there are, bounds all memory. Whoever
breaks a rule is told with GO_AWAY and the connection is over: `Malformed`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NoReturn

from mesh.host.wire.substream import Substream
from protocols import limits
from protocols.errors import Disconnected, Malformed, Overloaded
from protocols.ids import PeerId
from protocols.streams import Priority

PROTOCOL_ID: Final = "/yamux/1.0.0"
HEAD: Final = Struct("!BBHII")
HEAD_BYTES: Final = HEAD.size

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
NORMAL_END, PROTOCOL_ERROR = 0, 1

NUMBER_MAX: Final = (1 << 32) - 1
CREDIT_MAX: Final = (1 << 32) - 1


class Yamux:
    """One connection. `answers` are encoded frames that go out before any data; whoever sends them clears them."""

    def __init__(self, peer: PeerId, is_initiator: bool) -> None:
        self.streams: dict[int, Substream] = {}
        self.answers = bytearray()
        self.is_peer_leaving = False
        self._peer = peer
        self._next = 1 if is_initiator else 2
        self._ours = 0
        self._last_theirs = 0
        self._growth_left_bytes = limits.WINDOW_GROWTH_BYTES_MAX
        self._late_bytes = 0  # that may still come for streams which were reset here
        self._head = bytearray()
        self._body_left = 0
        self._body_of: Substream | None = None  # None: of a stream that is gone
        self._body_ends_it = False
        self._opened: list[Substream] = []
        self._touched: dict[Substream, None] = {}
        self._pings = _Rate(limits.WIRE_PINGS_PER_S_MAX)
        self._openings = _Rate(limits.STREAMS_PER_S_MAX)

    # What this side wants ----------------------------------------------------------------------------------------------

    def open(self, priority: Priority = Priority.NORMAL) -> Substream:
        """Raises `Overloaded` if too many are open, and `Disconnected` if the peer takes no more."""
        if self.is_peer_leaving or self._next > NUMBER_MAX:
            raise Disconnected("the connection takes no more streams")
        if self._ours >= limits.STREAMS_PER_CONNECTION_MAX or len(self.answers) >= limits.ANSWERS_BYTES_MAX:
            raise Overloaded(
                f"{limits.STREAMS_PER_CONNECTION_MAX} streams to {self._peer} are open: close some first"
            )
        stream = Substream(self._next, is_ours=True, priority=priority)
        self._next += 2
        self._ours += 1
        self.streams[stream.number] = stream
        self._answer(WINDOW, SYN, stream.number, 0)
        return stream

    def head_of(self, stream: Substream, size_bytes: int) -> bytes:
        """The head of a DATA frame, whose body of at most the stream's credit must follow it on the wire."""
        assert size_bytes <= stream.credit_bytes
        stream.credit_bytes -= size_bytes
        return HEAD.pack(0, DATA, 0, stream.number, size_bytes)

    def read(self, stream: Substream, max_bytes: int) -> bytes:
        """What has arrived, at most so much. The peer hears of it once half of its window was read."""
        data = stream.inbox.take(max_bytes)
        stream.read_bytes += len(data)
        if stream.read_bytes * 2 >= stream.target_bytes and not (stream.has_ended_there or stream.was_reset):
            self._widen(stream)
        return data

    def _widen(self, stream: Substream) -> None:
        """A stream that is read gets a window of twice the size, up to the bounds of its priority and the connection."""
        growth = min(stream.target_bytes, self._growth_left_bytes)
        if stream.target_bytes + growth <= stream.target_bytes_max:
            stream.target_bytes += growth
            self._growth_left_bytes -= growth
        else:
            growth = 0
        update = stream.read_bytes + growth
        stream.read_bytes = 0
        stream.window_bytes += update
        self._answer(WINDOW, 0, stream.number, update)

    def end(self, stream: Substream) -> None:
        """Nothing more will be sent; idempotent."""
        if not (stream.has_ended_here or stream.was_reset):
            stream.has_ended_here = True
            self._answer(DATA, FIN, stream.number, 0)
            self._forget_if_gone(stream)

    def reset(self, stream: Substream) -> None:
        """Give up both directions; nothing happens to one that has ended in both."""
        if not stream.is_gone:
            self._answer(WINDOW, RST, stream.number, 0)
            self._give_up(stream)

    def _give_up(self, stream: Substream) -> None:
        if not stream.has_ended_there:
            self._late_bytes += stream.window_bytes
        stream.was_reset = True
        stream.inbox.clear()
        self._forget_if_gone(stream)

    def leave(self, code: int = NORMAL_END) -> None:
        self._answer(GO_AWAY, 0, 0, code)

    # What the peer says --------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now_s: float) -> tuple[list[Substream], list[Substream]]:
        """The streams that the peer opened, and those where something has changed. Raises `Malformed`, after which the
        answers end with GO_AWAY and nothing more is to be received."""
        at, size = 0, len(data)
        while at < size:
            if self._body_left:
                end = min(at + self._body_left, size)
                self._take_body(data[at:end])  # no copy if it is all of them
                at = end
            elif self._head or size - at < HEAD_BYTES:
                end = at + HEAD_BYTES - len(self._head)
                self._head += data[at:end]
                at = end
                if len(self._head) == HEAD_BYTES:
                    fields = HEAD.unpack(self._head)
                    self._head.clear()
                    self._take_head(fields, now_s)
            else:
                at += HEAD_BYTES
                self._take_head(HEAD.unpack_from(data, at - HEAD_BYTES), now_s)
        opened, touched = self._opened, list(self._touched)
        self._opened, self._touched = [], {}
        return opened, touched

    def _take_body(self, piece: bytes) -> None:
        self._body_left -= len(piece)
        stream = self._body_of
        if stream is None:
            return
        if not stream.is_gone:
            stream.inbox.put(piece)
            self._touched[stream] = None
        if not self._body_left and self._body_ends_it:
            self._end_there(stream)

    def _take_head(self, head: tuple[int, ...], now_s: float) -> None:
        version, kind, flags, number, length = head
        if version:
            self._refuse(f"yamux version {version} is not spoken")
        if kind in (DATA, WINDOW):
            self._take_stream_head(kind, flags, number, length, now_s)
        elif number:
            self._refuse(f"a frame of type {kind} for stream {number}")
        elif kind == PING:
            if flags & SYN:
                if self._pings.is_exceeded(now_s):
                    self._refuse("a flood of pings")
                self._answer_peer(PING, ACK, 0, length)
        elif kind == GO_AWAY:
            self.is_peer_leaving = True
        else:
            self._refuse(f"yamux knows no frames of type {kind}")

    def _take_stream_head(self, kind: int, flags: int, number: int, length: int, now_s: float) -> None:
        if not number:
            self._refuse("data for the stream 0")
        stream = self._accept(number, now_s) if flags & SYN else self.streams.get(number)
        if kind == DATA:
            self._expect_body(stream, number, length, bool(flags & FIN))
        if stream is None:
            return
        self._touched[stream] = None
        if kind == WINDOW:
            stream.credit_bytes += length
            if stream.credit_bytes > CREDIT_MAX:
                self._refuse(f"the window of stream {number} overflows")
        if flags & RST:
            self._reset_there(stream)
        elif flags & FIN and not (kind == DATA and length):
            self._end_there(stream)

    def _accept(self, number: int, now_s: float) -> Substream | None:
        """A stream of the peer's, or None if it has too many, of which it is told."""
        if number % 2 == self._next % 2 or number in self.streams:
            self._refuse(f"stream {number} is not the peer's to open")
        if self._openings.is_exceeded(now_s):
            self._refuse("a flood of streams")
        self._last_theirs = max(self._last_theirs, number)
        if len(self.streams) - self._ours >= limits.STREAMS_INBOUND_MAX:
            self._late_bytes += limits.STREAM_WINDOW_BYTES
            self._answer_peer(WINDOW, RST, number, 0)
            return None
        stream = self.streams[number] = Substream(number, is_ours=False)
        self._answer_peer(WINDOW, ACK, number, 0)
        self._opened.append(stream)
        return stream

    def _expect_body(self, stream: Substream | None, number: int, length: int, ends_it: bool) -> None:
        if stream is None or stream.has_ended_there:
            was_open = number <= self._last_theirs if number % 2 != self._next % 2 else number < self._next
            if stream is not None or not was_open or length > self._late_bytes:
                self._refuse(f"{length} bytes for stream {number}, which is not open")
            self._late_bytes -= length
        elif length > stream.window_bytes:
            self._refuse(f"{length} bytes for stream {number}, whose window is {stream.window_bytes}")
        else:
            stream.window_bytes -= length
        self._body_of, self._body_left, self._body_ends_it = stream, length, ends_it

    def _end_there(self, stream: Substream) -> None:
        if not stream.is_gone:
            stream.has_ended_there = True
            self._touched[stream] = None
            self._forget_if_gone(stream)

    def _reset_there(self, stream: Substream) -> None:
        """What came before the peer's end of it is still to be read."""
        stream.was_reset = True
        if not stream.has_ended_there:
            stream.inbox.clear()
        self._forget_if_gone(stream)

    # Both ------------------------------------------------------------------------------------------------------------------

    def _forget_if_gone(self, stream: Substream) -> None:
        if stream.is_gone and self.streams.pop(stream.number, None) is not None:
            self._ours -= stream.is_ours
            self._growth_left_bytes += stream.target_bytes - limits.STREAM_WINDOW_BYTES

    def _answer(self, kind: int, flags: int, number: int, length: int) -> None:
        self.answers += HEAD.pack(0, kind, flags, number, length)

    def _answer_peer(self, kind: int, flags: int, number: int, length: int) -> None:
        if len(self.answers) >= limits.ANSWERS_BYTES_MAX:
            self._refuse("more is asked for than is read")
        self._answer(kind, flags, number, length)

    def _refuse(self, reason: str) -> NoReturn:
        self.leave(PROTOCOL_ERROR)
        self.is_peer_leaving = True
        raise Malformed(reason, self._peer)


class _Rate:
    """So many per second, counted from one full second to the next."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._second = 0
        self._count = 0

    def is_exceeded(self, now_s: float) -> bool:
        """Counts one."""
        if int(now_s) != self._second:
            self._second, self._count = int(now_s), 0
        self._count += 1
        return self._count > self._per_s
