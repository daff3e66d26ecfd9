"""Channels: a stream with its Hello, its frames and its message types.

    async with dial(network, peer, streams.SESSION, SESSION_CODEC, net) as channel:
        await channel.send(OpenStage(...))
        reply = await channel.receive()

The opener's Hello goes out with its first message and the acceptor's with its own, so that a Hello costs no round trip.
Leaving the context closes the stream; leaving it by an exception resets it, so that the other side notices at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import msgspec
import trio

from protocols import limits
from protocols.errors import Disconnected, Malformed, Oversized, RemoteFault, TimedOut
from protocols.frame import PREFIX, encode_frame
from protocols.hello import check_hello, encode_hello
from protocols.ids import NetworkId, PeerId
from protocols.messages import Codec
from protocols.seams import Network, Stream, StreamHandler
from protocols.streams import StreamKind

MessageT = TypeVar("MessageT", bound=msgspec.Struct)


READ_BYTES: Final = 65_536  # taken at once if so much has arrived; more only where more is waited for


class ByteReader:
    """Exact reads from a stream; keeps what arrived too early, and everything when a read is cancelled."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pending = bytearray()

    async def read_exactly(self, count: int) -> bytearray:
        """Raises `Disconnected` if the stream ends first."""
        await self._fill(count)
        return self._take(count)

    def take(self, count: int) -> bytearray | None:
        """If so many are here."""
        return self._take(count) if len(self._pending) >= count else None

    async def read_frame(self, limit_bytes: int) -> bytearray:
        """The body of one frame; raises `Oversized` from its prefix alone."""
        if len(self._pending) < PREFIX.size:
            await self._fill(PREFIX.size)
        end = PREFIX.size + self._length_at(0, limit_bytes)
        if len(self._pending) < end:
            await self._fill(end)
        return self._take(end)[PREFIX.size :]

    async def read_frames(self, limit_bytes: int) -> list[bytearray]:
        """The bodies of all whole frames that are here, waiting for one if there is none; raises as `read_frame` does.

        A frame that is too long is not told of before those in front of it were returned.
        """
        while not (bodies := self._take_frames(limit_bytes)):
            await self._fill(len(self._pending) + 1)
        return bodies

    def _take_frames(self, limit_bytes: int) -> list[bytearray]:
        bodies: list[bytearray] = []
        start, arrived = 0, len(self._pending)
        while arrived - start >= PREFIX.size:
            try:
                end = start + PREFIX.size + self._length_at(start, limit_bytes)
            except Oversized:
                if bodies:
                    break
                raise
            if end > arrived:
                break
            bodies.append(self._pending[start + PREFIX.size : end])
            start = end
        del self._pending[:start]
        return bodies

    def _length_at(self, start: int, limit_bytes: int) -> int:
        (length,) = PREFIX.unpack_from(self._pending, start)
        if length > limit_bytes:
            raise Oversized(f"a frame of {length} bytes exceeds the {limit_bytes} allowed", self._stream.peer)
        return int(length)

    async def _fill(self, count: int) -> None:
        while (missing := count - len(self._pending)) > 0:
            chunk = await self._stream.receive(READ_BYTES if missing <= READ_BYTES else min(missing, 1 << 20))
            if not chunk:
                raise Disconnected("the stream ended" + (" inside a frame" if self._pending else ""))
            self._pending += chunk

    def _take(self, count: int) -> bytearray:
        if len(self._pending) == count:  # the usual case, and without a copy
            data, self._pending = self._pending, bytearray()
            return data
        data = self._pending[:count]
        del self._pending[:count]
        return data

    async def read_some(self, count_max: int) -> bytes:
        """At least one byte, at most `count_max`; raises `Disconnected` at the end."""
        if not self._pending:
            self._pending += await self._stream.receive(count_max)
            if not self._pending:
                raise Disconnected("the stream ended")
        return bytes(self._take(min(count_max, len(self._pending))))


class Channel(Generic[MessageT]):
    """Messages of one codec over one stream. One task may send while another receives."""

    def __init__(
        self, stream: Stream, kind: StreamKind, codec: Codec[MessageT], network_id: NetworkId
    ) -> None:
        self.stream = stream
        self.reader = ByteReader(stream)
        self._kind = kind
        self._codec = codec
        self._network_id = network_id
        self._greeting = encode_frame(encode_hello(network_id), limits.HELLO_BYTES_MAX)
        self._greeted = False
        self._minor = 0
        self._sending = trio.Lock()

    @property
    def peer(self) -> PeerId:
        return self.stream.peer

    @property
    def minor(self) -> int:
        """The protocol minor that the peer speaks: 0 before its Hello is here, which comes with its first message."""
        return self._minor

    async def send(self, message: MessageT) -> None:
        """Raises `Disconnected` if the peer is gone, `Oversized` if the message is over this kind's limit.

        A send that is cancelled may have sent a part: reset the stream.
        """
        await self.send_raw(encode_frame(self._codec.encode(message), self._kind.limit_bytes))

    async def send_many(self, messages: Iterable[MessageT]) -> None:
        """All of them in one write, which for small ones costs little more than one of them; otherwise as `send`."""
        frames = [encode_frame(self._codec.encode(each), self._kind.limit_bytes) for each in messages]
        if frames:
            await self.send_raw(b"".join(frames))

    async def send_raw(self, *parts: bytes | bytearray | memoryview) -> None:
        """Bytes as they are, behind the Hello; parts of one call are never interleaved with another's."""
        if self._sending.locked():
            await self._sending.acquire()
        else:  # to wait for what is free would cost a turn of the scheduler
            self._sending.acquire_nowait()
        try:
            if self._greeting:
                parts, self._greeting = (self._greeting + parts[0], *parts[1:]), b""
            for part in parts:
                await self.stream.send(part)
        finally:
            self._sending.release()

    def send_nowait(self, message: MessageT) -> bool:
        """As `send_raw_nowait`; raises `Oversized` as well."""
        return self.send_raw_nowait(encode_frame(self._codec.encode(message), self._kind.limit_bytes))

    def send_raw_nowait(self, data: bytes) -> bool:
        """As `Stream.send_nowait`; False as well while anybody sends, or before the first message."""
        return not (self._greeting or self._sending.locked()) and self.stream.send_nowait(data)

    async def receive(self) -> MessageT:
        """The next message. Raises `Disconnected` at the end, `RemoteFault` for what breaks the rules.

        A receive that is cancelled loses nothing: the next one goes on where it was.
        """
        if not self._greeted:
            await self.greet()
        body = await self.reader.read_frame(self._kind.limit_bytes)
        try:  # what `blaming` does, where it would cost more than the decoding
            return self._codec.decode(body)
        except RemoteFault as fault:
            fault.peer = fault.peer or self.peer
            raise

    async def receive_many(self) -> list[MessageT]:
        """All messages that are here, at least one; waits, raises and may be cancelled as `receive`."""
        if not self._greeted:
            await self.greet()
        bodies = await self.reader.read_frames(self._kind.limit_bytes)
        try:
            return [self._codec.decode(body) for body in bodies]
        except RemoteFault as fault:
            fault.peer = fault.peer or self.peer
            raise

    async def greet(self) -> None:
        """Read and check the peer's Hello if that has not been done."""
        if not self._greeted:
            body = await self.reader.read_frame(limits.HELLO_BYTES_MAX)
            self._greeted = True
            with blaming(self.peer):
                self._minor = check_hello(bytes(body), self._network_id).minor


@contextmanager
def blaming(peer: PeerId) -> Iterator[None]:
    """Faults in what a peer sent are that peer's."""
    try:
        yield
    except RemoteFault as fault:
        fault.peer = fault.peer or peer
        raise


@asynccontextmanager
async def dial(
    network: Network, peer: PeerId, kind: StreamKind, codec: Codec[MessageT], network_id: NetworkId
) -> AsyncIterator[Channel[MessageT]]:
    """A channel to `peer`, open while the context is. Raises `Unavailable` or `Unauthenticated`."""
    with deadline(limits.DIAL_S + limits.OPEN_STREAM_S, f"no stream to {peer}"):
        stream = await network.open_stream(peer, kind)
    async with closing(stream):
        yield Channel(stream, kind, codec, network_id)


def accepting(
    kind: StreamKind,
    codec: Codec[MessageT],
    network_id: NetworkId,
    serve: Callable[[Channel[MessageT]], Awaitable[None]],
) -> StreamHandler:
    """A handler for `Network.handle` that checks the peer's Hello within its deadline and then serves the channel."""

    async def handler(stream: Stream) -> None:
        channel = Channel(stream, kind, codec, network_id)
        with deadline(limits.HELLO_S, "no Hello in time"):
            await channel.greet()
        await serve(channel)

    return handler


@asynccontextmanager
async def closing(stream: Stream) -> AsyncIterator[None]:
    """Close the stream at the end, reset it if the block fails or is cancelled."""
    finished = False
    try:
        yield
        finished = True
    finally:
        with trio.move_on_after(1, shield=True):
            await (stream.close() if finished else stream.reset())


class deadline:  # noqa: N801  (reads as a statement: with deadline(5, "no answer"))
    """Turns trio's TooSlowError into `TimedOut` with a sentence."""

    def __init__(self, seconds: float, message: str) -> None:
        self._scope = trio.CancelScope()
        self._seconds = seconds
        self._message = message

    def __enter__(self) -> Self:
        self.renew()
        self._scope.__enter__()
        return self

    def renew(self) -> None:
        """The time begins anew, which costs less than a deadline for each turn of a loop."""
        self._scope.deadline = trio.current_time() + self._seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise TimedOut(f"{self._message} within {self._seconds:g} s")


async def ask(
    channel: Channel[MessageT],
    request: MessageT,
    expected: type[MessageT],
    *,
    within_s: float = limits.REPLY_S,
) -> MessageT:
    """Send a request and receive its reply of the expected type; raises `Malformed` for another, `TimedOut`."""
    with deadline(within_s, f"no answer from {channel.peer}"):
        await channel.send(request)
        reply = await channel.receive()
    if not isinstance(reply, expected):
        raise Malformed(f"expected {expected.__name__}, got {type(reply).__name__}", channel.peer)
    return reply
