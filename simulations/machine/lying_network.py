"""A network whose streams send something else than they were given: nothing, old frames once more, or a newer release's words.

Only what this machine sends is touched, always by whole frames: a lie that broke the framing would end the stream, which is
another fault.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import msgspec

from protocols import limits, streams
from protocols.frame import PREFIX, FrameDecoder, encode_frame
from protocols.ids import PeerId, SessionId
from protocols.liveness import WATCH_CODEC, Reached
from protocols.membership import Contact
from protocols.seams import ConnectionInfo, Door, Network, PeerEvent, Stream, StreamHandler
from protocols.streams import Plane, StreamKind
from protocols.tensor import HEADER_BYTES, Preamble, decode_preamble

ACTIVATIONS: Final = (streams.DECODE, streams.PREFILL)
GROWING: Final = (
    streams.JOIN,
    streams.MEMBERS,
    streams.PING,
    streams.PLACEMENT,
    streams.GOSSIP,
    streams.SESSION,
)
"""Kinds on which nothing but messages is sent."""

Bytes = bytes | bytearray | memoryview
NEWS: Final = "from a newer release"


class Behaviour(Protocol):
    """What a lying stream asks of the conduct of its machine."""

    minor: int

    @property
    def is_newer(self) -> bool: ...
    @property
    def withholds(self) -> bool: ...
    def stale(self, key: tuple[SessionId, int], epoch: int) -> bytes: ...
    def remember(self, key: tuple[SessionId, int], epoch: int, frame: bytes) -> None: ...


class LyingStream:
    """Implements `protocols.seams.Stream`. `is_ours`: this machine opened it, and so sends the frames if it carries any."""

    def __init__(self, stream: Stream, kind: StreamKind, conduct: Behaviour, *, is_ours: bool) -> None:
        self._stream = stream
        self._kind = kind
        self._conduct = conduct
        self._carries_frames = is_ours and kind in ACTIVATIONS
        self._has_greeted = False
        self._owed_bytes = 0  # of an activation frame that was begun
        self._swallows_rest = False

    @property
    def peer(self) -> PeerId:
        return self._stream.peer

    async def send(self, data: Bytes) -> None:
        out = self._instead(bytes(data))
        self._has_greeted = True
        if out:
            await self._stream.send(out)

    def send_nowait(self, data: Bytes) -> bool:
        # Only data that was taken has been sent: otherwise the same bytes come once more by `send`.
        before = self._owed_bytes, self._swallows_rest
        out = self._instead(bytes(data))
        if out and not self._stream.send_nowait(out):
            self._owed_bytes, self._swallows_rest = before
            return False
        self._has_greeted = True
        return True

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()

    def _instead(self, data: bytes) -> bytes:
        hello = b""
        if not self._has_greeted:
            (length,) = PREFIX.unpack_from(data)
            hello, data = data[: PREFIX.size + length], data[PREFIX.size + length :]
            hello = newer_hello(hello, self._conduct.minor) if self._conduct.is_newer else hello
        return hello + (self._frames(data) if self._carries_frames else self._messages(data))

    def _messages(self, data: bytes) -> bytes:
        if self._conduct.withholds and (self._kind in ACTIVATIONS or self._kind == streams.PING):
            bodies = FrameDecoder(limits.CONTROL_BYTES_MAX).feed(data)
            kept = [body for body in bodies if self._kind == streams.PING and not _is_testimony(body)]
            data = b"".join(encode_frame(body, limits.CONTROL_BYTES_MAX) for body in kept)
        if self._conduct.is_newer and self._kind in GROWING:
            return grown(data, self._kind.limit_bytes)
        return data

    def _frames(self, data: bytes) -> bytes:
        """Of activation frames, of which each begins with a part of its own."""
        if self._owed_bytes:
            self._owed_bytes -= len(data)
            return b"" if self._swallows_rest else data
        if not data:
            return data
        preamble = decode_preamble(data[:HEADER_BYTES])
        self._owed_bytes = HEADER_BYTES + preamble.rest_bytes - len(data)
        self._swallows_rest = self._conduct.withholds
        if self._swallows_rest:
            return b""
        return data if self._owed_bytes else data + self._stale(preamble, data)

    def _stale(self, preamble: Preamble, frame: bytes) -> bytes:
        header = preamble.header
        key = header.session, header.stage
        stale = self._conduct.stale(key, header.epoch)
        self._conduct.remember(key, header.epoch, frame)
        return stale


def _is_testimony(body: bytes) -> bool:
    return isinstance(WATCH_CODEC.decode(body), Reached)


def newer_hello(frame: bytes, minor: int) -> bytes:
    """The Hello of a release that speaks `minor` and says one thing more."""
    fields = msgspec.msgpack.decode(frame[PREFIX.size :])
    return encode_frame(msgspec.msgpack.encode([fields[0], minor, *fields[2:], NEWS]), limits.HELLO_BYTES_MAX)


def grown(data: bytes, limit_bytes: int) -> bytes:
    """Whole messages, each with a field more at its end, where that fits: structs only grow there."""
    out = bytearray()
    for body in FrameDecoder(limit_bytes).feed(data):
        fields = msgspec.msgpack.decode(body)
        longer = msgspec.msgpack.encode([*fields, NEWS])
        out += encode_frame(longer if len(longer) <= limit_bytes else body, limit_bytes)
    return bytes(out)


class LyingNetwork:
    """Implements `protocols.seams.Network` on another one."""

    def __init__(self, network: Network, conduct: Behaviour) -> None:
        self._network = network
        self._conduct = conduct

    @property
    def peer(self) -> PeerId:
        return self._network.peer

    @property
    def static(self) -> bytes:
        return self._network.static

    @property
    def faults(self) -> Mapping[str, int]:
        return self._network.faults

    def addresses(self, plane: Plane) -> tuple[str, ...]:
        return self._network.addresses(plane)

    def learn(self, contact: Contact) -> None:
        self._network.learn(contact)

    def guard(self, door: Door) -> None:
        self._network.guard(door)

    def handle(self, kind: StreamKind, handler: StreamHandler) -> None:
        async def handled(stream: Stream) -> None:
            await handler(LyingStream(stream, kind, self._conduct, is_ours=False))

        self._network.handle(kind, handled)

    async def connect(self, peer: PeerId, plane: Plane) -> None:
        await self._network.connect(peer, plane)

    async def disconnect(self, peer: PeerId) -> None:
        await self._network.disconnect(peer)

    async def open_stream(self, peer: PeerId, kind: StreamKind) -> Stream:
        stream = await self._network.open_stream(peer, kind)
        return LyingStream(stream, kind, self._conduct, is_ours=True)

    def connections(self) -> Sequence[ConnectionInfo]:
        return self._network.connections()

    def events(self) -> AsyncIterator[PeerEvent]:
        return self._network.events()

    def run(self) -> AbstractAsyncContextManager[None]:
        return self._network.run()
