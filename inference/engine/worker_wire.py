"""What the daemon and its torch process say to each other over their socketpair.

    4 bytes  header length, big-endian      the header: one MessagePack message of the unions below
    4 bytes  body length                    the body: raw tensor bytes, or nothing

Requests are answered in the order they were sent, each by exactly one `Answer`; before it any number of `Advanced` may
come, which belong to the oldest request that has no answer yet. Both ends are this release, so nothing here is versioned.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from protocols import errors, limits
from protocols.errors import LocalFault, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardId, ShardLoaded, ShardSpec
from protocols.tensor import Header

PREFIX: Final = struct.Struct(">II")


class LoadShard(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    spec: ShardSpec


class UnloadShard(msgspec.Struct, frozen=True, array_like=True, tag="unload"):
    shard: ShardId


class OpenCache(msgspec.Struct, frozen=True, array_like=True, tag="open"):
    shard: ShardId
    session: SessionId
    stage: int
    spec: CacheSpec


class CloseCache(msgspec.Struct, frozen=True, array_like=True, tag="close"):
    shard: ShardId
    session: SessionId
    stage: int


class Step(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """A frame without its extension; its body follows."""

    shard: ShardId
    header: Header
    tokens: tuple[int, ...]


class MeasureLayer(msgspec.Struct, frozen=True, array_like=True, tag="measure"):
    shape: LayerShape


Request = LoadShard | UnloadShard | OpenCache | CloseCache | Step | MeasureLayer


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Said once, unasked, when torch is imported."""


class Advanced(msgspec.Struct, frozen=True, array_like=True, tag="advanced"):
    """Bytes of a load, or layers of a step; not more often than every `WORKER_PROGRESS_S`."""

    done: int
    total: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    pass


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    loaded: ShardLoaded


class CacheOpened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    """`kv_bytes` are reserved for it."""

    kv_bytes: int


class Stepped(msgspec.Struct, frozen=True, array_like=True, tag="stepped"):
    """The output rows follow as the body."""

    token: int | None
    step_ms: float


class Measured(msgspec.Struct, frozen=True, array_like=True, tag="measured"):
    layer_ms: float


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """`kind` is the name of a class of protocols/errors.py."""

    kind: str
    message: str

    def as_error(self) -> WeftError:
        kind = getattr(errors, self.kind, LocalFault)
        if isinstance(kind, type) and issubclass(kind, WeftError):
            return kind(self.message)
        return LocalFault(self.message)


Answer = Done | Loaded | CacheOpened | Stepped | Measured | Failed
Reply = Ready | Advanced | Answer

REQUESTS: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
REPLIES: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: Request | Reply, body_bytes: int = 0) -> bytes:
    """Prefix and header; the body of `body_bytes` follows as it is."""
    header = _encoder.encode(message)
    assert len(header) <= limits.WORKER_HEADER_BYTES_MAX
    return PREFIX.pack(len(header), body_bytes) + header


def parse_prefix(prefix: bytes | bytearray) -> tuple[int, int]:
    """The lengths of header and body; raises `LocalFault` for what this release cannot have written."""
    header_bytes, body_bytes = PREFIX.unpack(prefix)
    if header_bytes > limits.WORKER_HEADER_BYTES_MAX or body_bytes > limits.BODY_BYTES_MAX:
        raise LocalFault("something else than weft writes into the worker's socket")
    return header_bytes, body_bytes
