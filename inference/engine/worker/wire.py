"""What the daemon and its torch process say to each other over their socketpair.

    4 bytes  header length, big-endian      the header: one MessagePack message of the unions below
    4 bytes  body length                    the body: raw tensor bytes, or nothing
    4 bytes  the call                       a number that the daemon gives a request; its replies carry the same

Every request is answered by exactly one `Answer`, steps in the order in which they have their turns, all else at once;
before it any number of `Advanced` may come for a load, and of `Worked` for a step. Both ends are this release, so nothing
here is versioned.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from protocols import errors, limits
from protocols.errors import LocalFault, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerShape
from protocols.seams import CacheKey, CacheSpec, ShardId, ShardLoaded, ShardSpec
from protocols.tensor import Header

PREFIX: Final = struct.Struct(">III")
CALLS: Final = 1 << 32


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


class ListCaches(msgspec.Struct, frozen=True, array_like=True, tag="caches"):
    """Which are open, whoever opened them."""


class LimitRows(msgspec.Struct, frozen=True, array_like=True, tag="limit"):
    """At most that many rows in a turn; None: as many as are worth it."""

    rows: int | None


class DropPrefixes(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """All rows that are kept for later sessions."""


class Step(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """A frame without its extension; its body follows."""

    shard: ShardId
    header: Header
    tokens: tuple[int, ...]


class MeasureLayer(msgspec.Struct, frozen=True, array_like=True, tag="measure"):
    shape: LayerShape


Request = (
    LoadShard
    | UnloadShard
    | OpenCache
    | CloseCache
    | Step
    | MeasureLayer
    | ListCaches
    | LimitRows
    | DropPrefixes
)


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """Said once, unasked, when torch is imported: where it computes, and how much memory of that it may use, 0 if that is what it
    was told. If it cannot start, it says `Failed` instead."""

    device: str = "cpu"
    budget_bytes: int = 0


READY_ON_HOST: Final = Ready()


class Advanced(msgspec.Struct, frozen=True, array_like=True, tag="advanced"):
    """Bytes of a load; not more often than every `WORKER_PROGRESS_S`, and once at its end."""

    done: int
    total: int


class Worked(msgspec.Struct, frozen=True, array_like=True, tag="worked"):
    """So many more layers are computed of the turn that all these calls share, which its prefix leaves out; as often."""

    calls: tuple[int, ...]
    layers: int


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="kept"):
    """Said unasked, whenever it has changed: the bytes that are kept for later sessions."""

    prefix_bytes: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    pass


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag="loaded"):
    loaded: ShardLoaded


class CacheOpened(msgspec.Struct, frozen=True, array_like=True, tag="opened"):
    """`kv_bytes` are reserved for it, and `rows` of it are there already."""

    kv_bytes: int
    rows: int = 0


class CachesListed(msgspec.Struct, frozen=True, array_like=True, tag="listed"):
    caches: tuple[CacheKey, ...]


class Stepped(msgspec.Struct, frozen=True, array_like=True, tag="stepped"):
    """The output rows follow as the body. `step_rows` are those of the turn that it shared with others, of several the last.

    `step_ms` is what that turn took, or if that is longer the longest time that the worker lately went without an advance, in
    whosever turn: whoever waits for three times as long takes nobody for dead who only waits for a chunk of others.
    """

    token: int | None
    step_ms: float
    step_rows: int


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


Answer = Done | Loaded | CacheOpened | CachesListed | Stepped | Measured | Failed
Reply = Ready | Advanced | Worked | Kept | Answer

REQUESTS: Final[msgspec.msgpack.Decoder[Request]] = msgspec.msgpack.Decoder(Request)
REPLIES: Final[msgspec.msgpack.Decoder[Reply]] = msgspec.msgpack.Decoder(Reply)
_encoder: Final = msgspec.msgpack.Encoder()


def encode(call: int, message: Request | Reply, body_bytes: int = 0) -> bytes:
    """Prefix and header; the body of `body_bytes` follows as it is."""
    header = _encoder.encode(message)
    assert len(header) <= limits.WORKER_HEADER_BYTES_MAX
    return PREFIX.pack(len(header), body_bytes, call) + header


def parse_prefix(prefix: bytes | bytearray) -> tuple[int, int, int]:
    """The lengths of header and body, and the call; raises `LocalFault` for what this release cannot have written."""
    header_bytes, body_bytes, call = PREFIX.unpack(prefix)
    if header_bytes > limits.WORKER_HEADER_BYTES_MAX or body_bytes > limits.BODY_BYTES_MAX:
        raise LocalFault("something else than weft writes into the worker's socket")
    return header_bytes, body_bytes, call
