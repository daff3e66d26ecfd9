"""Activation frames: a fixed header, and what follows it."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits
from protocols.errors import Malformed, Oversized
from protocols.ids import SessionId
from protocols.tensor import (
    HEADER_BYTES,
    DType,
    Frame,
    Header,
    Kind,
    Numerics,
    decode_preamble,
    decode_rest,
    encode_prefix,
)

SESSION = SessionId("0123456789abcdef" * 2)
GOLDEN_HEADER = Header(
    Kind.REPLAY, SESSION, 2, 3, 17, 2, 1, 16, Numerics.EXACT, DType.F32, branch=4, sample=True
)
GOLDEN_FRAME = Frame(GOLDEN_HEADER, (5, 511), struct.pack("<2f", 1.0, -2.0), b"ext")
# magic, version, kind, flags | session | epoch, branch, stage, reserved | position, rows, width | truncate_to,
# numerics, dtype, extension bytes | body bytes, crc32 | token ids | extension
GOLDEN = (
    bytes.fromhex(
        "57465431 01 04 0001  0123456789abcdef0123456789abcdef  00000002 00000004 0003 0000"
        "0000000000000011 00000002 00000001  00000010 02 01 0003  0000000000000008"
    ).hex()
    + "{crc:08x}"
    + bytes.fromhex("05000000 ff010000").hex()
    + b"ext".hex()
)

HEADERS = st.builds(
    Header,
    kind=st.sampled_from(Kind),
    session=st.binary(min_size=16, max_size=16).map(lambda raw: SessionId(raw.hex())),
    epoch=st.integers(0, (1 << 32) - 1),
    stage=st.integers(0, limits.STAGES_MAX - 1),
    position=st.integers(1 << 32, (1 << 64) - 1),
    rows=st.integers(1, 8),
    width=st.integers(0, 16),
    truncate_to=st.integers(0, (1 << 32) - 1),
    numerics=st.sampled_from(Numerics),
    dtype=st.sampled_from(DType),
    branch=st.integers(0, (1 << 32) - 1),
    sample=st.booleans(),
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    header = draw(HEADERS)
    tokens = draw(st.lists(st.integers(0, (1 << 32) - 1), min_size=header.rows, max_size=header.rows))
    body = draw(st.binary(min_size=header.body_bytes, max_size=header.body_bytes))
    return Frame(header, tuple(tokens), body, draw(st.binary(max_size=50)))


def wire(frame: Frame) -> bytes:
    return encode_prefix(frame) + bytes(frame.body)


def read(data: bytes) -> Frame:
    preamble = decode_preamble(data[:HEADER_BYTES])
    return decode_rest(preamble, bytearray(data[HEADER_BYTES : HEADER_BYTES + preamble.rest_bytes]))


def test_the_golden_frame_is_written_byte_for_byte() -> None:
    crc = zlib.crc32(wire(GOLDEN_FRAME)[HEADER_BYTES:])
    assert encode_prefix(GOLDEN_FRAME).hex() == GOLDEN.format(crc=crc)
    assert HEADER_BYTES == 72
    assert crc == 0xAA29D8D9


@given(frames())
def test_what_is_written_is_read(frame: Frame) -> None:
    data = wire(frame)
    assert len(data) == frame.size_bytes
    again = read(data)
    assert (again.header, again.tokens, again.extension) == (frame.header, frame.tokens, frame.extension)
    assert bytes(again.body) == frame.body


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_headers_give_typed_errors_alone(data: bytes) -> None:
    for candidate in (data, b"WFT1\x01" + data[5:]):
        try:
            preamble = decode_preamble(candidate)
        except (Malformed, Oversized):
            continue
        check_bounds(preamble.rest_bytes)


@given(frames(), st.integers(0, HEADER_BYTES - 1), st.integers(0, 255))
def test_a_header_with_one_byte_changed_is_refused_or_stays_within_all_bounds(
    frame: Frame, at: int, value: int
) -> None:
    data = bytearray(wire(frame)[:HEADER_BYTES])
    data[at] = value
    try:
        preamble = decode_preamble(bytes(data))
    except (Malformed, Oversized):
        return
    check_bounds(preamble.rest_bytes)
    assert preamble.header.body_bytes <= limits.BODY_BYTES_MAX


def check_bounds(rest_bytes: int) -> None:
    assert 0 < rest_bytes <= 4 * limits.ROWS_MAX + limits.EXTENSION_BYTES_MAX + limits.BODY_BYTES_MAX


@given(frames(), st.data())
def test_a_changed_byte_behind_the_header_is_noticed(frame: Frame, data: st.DataObject) -> None:
    raw = bytearray(wire(frame))
    at = data.draw(st.integers(HEADER_BYTES, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Malformed, match="checksum"):
        read(bytes(raw))


FIELDS = ">4sBBH16sIIHHQIIIBBHQI"


def changed(**fields: int | bytes) -> bytes:
    """The golden header with some fields written over."""
    names = (
        "magic", "version", "kind", "flags", "session", "epoch", "branch", "stage", "reserved", "position", "rows",
        "width", "truncate_to", "numerics", "dtype", "extension_bytes", "body_bytes", "crc",
    )  # fmt: skip
    values = dict(zip(names, struct.unpack(FIELDS, wire(GOLDEN_FRAME)[:HEADER_BYTES]), strict=True))
    return struct.pack(FIELDS, *(values | fields).values())


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"magic": b"WFT2"}, Malformed),
        ({"version": 2}, Malformed),
        ({"kind": 0}, Malformed),
        ({"kind": 5}, Malformed),
        ({"flags": 2}, Malformed),
        ({"reserved": 1}, Malformed),
        ({"numerics": 3}, Malformed),
        ({"dtype": 3}, Malformed),
        ({"rows": 0}, Oversized),
        ({"rows": limits.ROWS_MAX + 1}, Oversized),
        ({"width": limits.WIDTH_MAX + 1}, Oversized),
        ({"stage": limits.STAGES_MAX}, Oversized),
        ({"extension_bytes": limits.EXTENSION_BYTES_MAX + 1}, Oversized),
        ({"body_bytes": limits.BODY_BYTES_MAX + 1}, Oversized),
        ({"rows": limits.ROWS_MAX, "width": limits.WIDTH_MAX, "body_bytes": 1 << 30}, Oversized),
        ({"body_bytes": 7}, Malformed),
        ({"rows": 3}, Malformed),
        ({"truncate_to": 18}, Malformed),
    ],
)
def test_each_field_is_checked_before_anything_behind_it_is_read(
    fields: dict[str, int | bytes], error: type[Exception]
) -> None:
    decode_preamble(changed())
    with pytest.raises(error):
        decode_preamble(changed(**fields))


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES + 1])
def test_a_header_of_another_length_is_malformed(length: int) -> None:
    with pytest.raises(Malformed):
        decode_preamble(bytes(length))


def test_the_body_is_a_view_and_not_a_copy() -> None:
    data = wire(GOLDEN_FRAME)
    rest = bytearray(data[HEADER_BYTES:])
    frame = decode_rest(decode_preamble(data[:HEADER_BYTES]), rest)
    assert isinstance(frame.body, memoryview)
    assert frame.body.obj is rest
