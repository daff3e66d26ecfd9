"""Activation frames: a fixed binary header, then token ids, an extension block, and the raw tensor.

Never MessagePack: a body is checked against what the header says before any of it is read, and lands in one buffer.

    offset size field                          offset size field
         0    4 magic "WFT1"                       44    4 rows
         4    1 version                            48    4 width (hidden size; 0: token ids alone)
         5    1 kind                               52    4 truncate_to
         6    2 flags                              56    1 numerics
         8   16 session                            57    1 dtype
        24    4 epoch   (failover fence)           58    2 extension bytes
        28    4 branch  (speculation rollback)     60    8 body bytes
        32    2 stage   (index in the route)       68    4 crc32 of token ids, extension and body
        34    2 reserved, zero                     72      = header
        36    8 position (of the first row)

then rows x 4 bytes of token ids (little-endian uint32; all zero where unknown), the extension, the body
(rows x width items, little-endian, row-major).
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final

from msgspec import Struct

from protocols import limits
from protocols.errors import Malformed, Oversized
from protocols.ids import SessionId

MAGIC: Final = b"WFT1"
VERSION: Final = 1
_LAYOUT: Final = struct.Struct(">4sBBH16sIIHHQIIIBBHQI")
HEADER_BYTES: Final = _LAYOUT.size

FLAG_SAMPLE: Final = 1  # the last row of this frame is to be sampled from at the last stage
_FLAGS_KNOWN: Final = FLAG_SAMPLE


class Kind(IntEnum):
    PREFILL = 1
    DECODE = 2
    VERIFY = 3
    REPLAY = 4


class Numerics(IntEnum):
    """`FAST` takes whatever kernel is quickest; `EXACT` makes a row's bits independent of its neighbours."""

    FAST = 1
    EXACT = 2


class DType(IntEnum):
    F32 = 1
    BF16 = 2

    @property
    def item_bytes(self) -> int:
        return 4 if self is DType.F32 else 2


# To look one up costs a third of what calling the enum does.
_KINDS: Final = {int(each): each for each in Kind}
_NUMERICS: Final = {int(each): each for each in Numerics}
_DTYPES: Final = {int(each): each for each in DType}


class Header(Struct, frozen=True):
    """What precedes a body. `position` is that of the first row; `truncate_to` how many rows the cache keeps first."""

    kind: Kind
    session: SessionId
    epoch: int
    stage: int
    position: int
    rows: int
    width: int
    truncate_to: int
    numerics: Numerics
    dtype: DType
    branch: int = 0
    sample: bool = False

    @property
    def body_bytes(self) -> int:
        return self.rows * self.width * self.dtype.item_bytes


class Frame(Struct, frozen=True):
    """A header with its token ids (one per row) and its body of `header.body_bytes` bytes."""

    header: Header
    tokens: tuple[int, ...]
    body: bytes | bytearray | memoryview
    extension: bytes = b""

    @property
    def size_bytes(self) -> int:
        return HEADER_BYTES + 4 * len(self.tokens) + len(self.extension) + len(self.body)


class Preamble(Struct, frozen=True):
    """A checked header with the sizes of what follows it on the stream."""

    header: Header
    tokens_bytes: int
    extension_bytes: int
    crc32: int

    @property
    def rest_bytes(self) -> int:
        return self.tokens_bytes + self.extension_bytes + self.header.body_bytes


def encode_prefix(frame: Frame) -> bytes:
    """Header, token ids and extension; the body follows as it is, uncopied."""
    header, extension = frame.header, frame.extension
    body_bytes = header.body_bytes
    assert len(frame.tokens) == header.rows
    assert len(frame.body) == body_bytes
    tokens = struct.pack(f"<{header.rows}I", *frame.tokens)
    crc = zlib.crc32(frame.body, zlib.crc32(extension, zlib.crc32(tokens)))
    packed = _LAYOUT.pack(
        MAGIC, VERSION, header.kind, FLAG_SAMPLE if header.sample else 0, bytes.fromhex(header.session), header.epoch,
        header.branch, header.stage, 0, header.position, header.rows, header.width, header.truncate_to,
        header.numerics, header.dtype, len(extension), body_bytes, crc,
    )  # fmt: skip
    return packed + tokens + extension


def decode_preamble(data: bytes | bytearray) -> Preamble:
    """The header in exactly `HEADER_BYTES` bytes; raises `Malformed` or `Oversized` before any body is read."""
    if len(data) != HEADER_BYTES:
        raise Malformed(f"a header has {HEADER_BYTES} bytes, not {len(data)}")
    (
        magic, version, kind, flags, session, epoch, branch, stage, reserved, position, rows, width, truncate_to,
        numerics, dtype, extension_bytes, body_bytes, crc,
    ) = _LAYOUT.unpack(data)  # fmt: skip
    if magic != MAGIC or version != VERSION or reserved or flags & ~_FLAGS_KNOWN:
        raise Malformed("not an activation frame of this version")
    try:
        header = Header(
            _KINDS[kind], SessionId(session.hex()), epoch, stage, position, rows, width, truncate_to,
            _NUMERICS[numerics], _DTYPES[dtype], branch, bool(flags & FLAG_SAMPLE),
        )  # fmt: skip
    except KeyError as error:
        raise Malformed(f"unknown value in the header: {error}") from error
    if not 0 < rows <= limits.ROWS_MAX or width > limits.WIDTH_MAX or stage >= limits.STAGES_MAX:
        raise Oversized(f"a frame of {rows} rows x {width}, stage {stage}, exceeds the limits")
    if extension_bytes > limits.EXTENSION_BYTES_MAX or body_bytes > limits.BODY_BYTES_MAX:
        raise Oversized(
            f"a body of {body_bytes} and an extension of {extension_bytes} bytes exceed the limits"
        )
    if body_bytes != header.body_bytes or truncate_to > position:
        raise Malformed("the header contradicts itself")
    return Preamble(header, 4 * rows, extension_bytes, crc)


def decode_rest(preamble: Preamble, rest: bytearray) -> Frame:
    """The frame whose `rest_bytes` bytes are in `rest`; the body is a view of it. Raises `Malformed` on a wrong checksum."""
    assert len(rest) == preamble.rest_bytes
    if zlib.crc32(rest) != preamble.crc32:
        raise Malformed("the checksum of an activation frame is wrong")
    extension_start = preamble.tokens_bytes
    body_start = extension_start + preamble.extension_bytes
    tokens = struct.unpack_from(f"<{preamble.header.rows}I", rest)
    extension = bytes(rest[extension_start:body_start])
    return Frame(preamble.header, tokens, memoryview(rest)[body_start:], extension)
