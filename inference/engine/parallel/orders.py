"""What the rank that leads tells the others, each over a socketpair of its own: everything that it does to a shard or its caches,
in the order in which it does so. Rows do not come this way (inference/engine/parallel/ranks.py).

    4 bytes  length, big-endian      one MessagePack message of the unions below

Orders have been checked and are not answered, but for a load, which may fail at one rank alone. Both ends are this release.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

import msgspec

from inference.engine.worker.wire import Failed
from protocols.ids import SessionId
from protocols.seams import CacheSpec, ShardSpec
from protocols.tensor import Frame, Header

_LENGTH: Final = struct.Struct(">I")
CacheKey = tuple[SessionId, int]


class RankLost(Exception):
    """A rank has ended, hangs, or is not in step: the others can't go on, and what they hold is of no use."""


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """`number` names the shard from then on. With the arithmetic that the leader has found: all must cut rows alike."""

    number: int
    spec: ShardSpec
    kernel: str
    row_sizes: tuple[int, ...]
    is_exact: bool
    numerics_class: str


class Unload(msgspec.Struct, frozen=True, array_like=True, tag="unload"):
    number: int


class Open(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    """`rows` are there already; None: the leader had no room for it, and what that let go of is let go of everywhere."""

    number: int
    key: CacheKey
    spec: CacheSpec
    rows: int | None


class Close(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    number: int
    key: CacheKey


class Begin(msgspec.Struct, frozen=True, array_like=True, tag="begin"):
    """The frames of one step, without their bodies."""

    number: int
    work: tuple[tuple[CacheKey, Header, tuple[int, ...]], ...]

    def frames(self) -> list[tuple[CacheKey, Frame]]:
        return [(key, Frame(header, tokens, b"")) for key, header, tokens in self.work]


class BeginTrial(msgspec.Struct, frozen=True, array_like=True, tag="trial"):
    number: int
    rows: int
    layer: int


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """All rows that are kept for later sessions."""


Order = Load | Unload | Open | Close | Begin | BeginTrial | Forget


class Here(msgspec.Struct, frozen=True, array_like=True, tag="here"):
    """At the start, when torch is imported, and now and then while a shard is read."""


class Read(msgspec.Struct, frozen=True, array_like=True, tag="read"):
    """The shard is there."""


Answer = Here | Read | Failed

_ORDERS: Final[msgspec.msgpack.Decoder[Order]] = msgspec.msgpack.Decoder(Order)
_ANSWERS: Final[msgspec.msgpack.Decoder[Answer]] = msgspec.msgpack.Decoder(Answer)
_encoder: Final = msgspec.msgpack.Encoder()


def encoded(message: Order | Answer) -> bytes:
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def receive_order(end: socket.socket) -> Order:
    """The next one. Raises `EOFError` when the leader has ended."""
    return _ORDERS.decode(_message(end))


def receive_answer(end: socket.socket) -> Answer:
    """Raises `EOFError` when the other rank has ended, `TimeoutError` when it is silent for longer than the socket's time-out."""
    return _ANSWERS.decode(_message(end))


def _message(end: socket.socket) -> bytearray:
    (length,) = _LENGTH.unpack(_exactly(end, _LENGTH.size))
    return _exactly(end, length)


def _exactly(end: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    filled = 0
    while filled < count:
        received = end.recv_into(memoryview(data)[filled:])
        if not received:
            raise EOFError
        filled += received
    return data
