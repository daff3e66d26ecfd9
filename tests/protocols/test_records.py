"""Node records on the wire: golden bytes, and what the decoder refuses."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import limits
from protocols.errors import Malformed, Oversized
from protocols.records import (
    Capabilities,
    NodeRecord,
    SignedRecord,
    decode_record,
    decode_signed,
    encode_record,
    encode_signed,
)
from tests.protocols.vectors import ADA, CONTROL, DATA, NETWORK, STATIC

CAPABILITIES = Capabilities(8, 1 << 34, 1 << 33, True, 4, ("cpu",), 1)
RECORD = NodeRecord(
    ADA,
    NETWORK,
    1_800_000_000_123,
    1_800_000_000,
    1_800_086_400,
    (CONTROL,),
    (DATA,),
    (STATIC, b"\x12" * 32),
    "ada",
    ("zone=eu", "site=attic"),
    CAPABILITIES,
    b"chain",
)
MEANS: list[Any] = [
    ADA,
    NETWORK,
    1_800_000_000_123,
    1_800_000_000,
    1_800_086_400,
    [CONTROL],
    [DATA],
    [STATIC, b"\x12" * 32],
    "ada",
    ["zone=eu", "site=attic"],
    [8, 1 << 34, 1 << 33, True, 4, ["cpu"], 1],
    b"chain",
]
CONTROL_AT, DATA_AT, STATICS_AT, NAME_AT, LABELS_AT, CHAIN_AT = 5, 6, 7, 8, 9, 11


def altered(at: int, value: object) -> bytes:
    return bytes(msgpack.packb([*MEANS[:at], value, *MEANS[at + 1 :]]))


def test_a_record_is_what_an_independent_reader_says() -> None:
    assert msgpack.unpackb(encode_record(RECORD)) == MEANS
    assert encode_record(RECORD) == msgpack.packb(MEANS)
    assert decode_record(msgpack.packb(MEANS)) == RECORD


def test_a_signed_record_keeps_the_very_bytes() -> None:
    later_minor = bytes(msgpack.packb([*MEANS, "a field of a later minor"]))
    signed = SignedRecord(later_minor, b"\x01" * 64)
    assert encode_signed(signed) == msgpack.packb([later_minor, b"\x01" * 64])
    assert decode_signed(encode_signed(signed)) == signed
    assert decode_record(decode_signed(encode_signed(signed)).record) == RECORD


def test_a_first_record_without_the_later_fields_still_decodes() -> None:
    record = decode_record(msgpack.packb(MEANS[:NAME_AT]))
    assert (record.name, record.labels, record.capabilities, record.chain) == ("", (), Capabilities(), b"")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (CONTROL_AT, [CONTROL] * (limits.ADDRESSES_MAX + 1)),
        (DATA_AT, [DATA] * (limits.ADDRESSES_MAX + 1)),
        (CONTROL_AT, ["/ip4/10.0.0.1/udp/4001"]),
        (DATA_AT, ["hello"]),
        (STATICS_AT, []),
        (STATICS_AT, [STATIC] * 3),
        (STATICS_AT, [STATIC[:-1]]),
        (NAME_AT, "\x1b[2J"),
        (NAME_AT, "a" * 65),
        (LABELS_AT, ["zone=eu", "zone=us"]),
        (LABELS_AT, ["zone"]),
        (LABELS_AT, ["zone=a=b"]),
        (LABELS_AT, ["zone=a,b"]),
        (LABELS_AT, ["Zone=a"]),
        (LABELS_AT, ["zone=a\n"]),
        (LABELS_AT, [f"l{number}=x" for number in range(limits.LABELS_MAX + 1)]),
        (CHAIN_AT, b"x" * (limits.CHAIN_BYTES_MAX + 1)),
        (2, -1),
        (2, 1 << 63),
        (0, "nobody"),
    ],
)
def test_what_a_node_could_not_say_of_itself_is_malformed(at: int, value: object) -> None:
    with pytest.raises(Malformed):
        decode_record(altered(at, value))


@pytest.mark.parametrize("address", ["", CONTROL])
def test_ten_thousand_addresses_are_refused_without_being_read(address: str) -> None:
    flood = altered(CONTROL_AT, [address] * 10_000)
    assert len(flood) > limits.RECORD_BYTES_MAX
    signed_flood = msgpack.packb([flood, b"\x01" * 64])
    tracemalloc.start()
    try:
        with pytest.raises(Oversized):
            decode_record(flood)
        with pytest.raises(Oversized):
            decode_signed(signed_flood)
        assert tracemalloc.get_traced_memory()[1] < 2 * limits.RECORD_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_the_largest_record_fits() -> None:
    longest = "/dns4/" + "a" * 60 + "." + "b" * 51 + "/tcp/65535"
    record = msgspec.structs.replace(
        RECORD,
        control=(longest[:-1] + "4",) * limits.ADDRESSES_MAX,
        data=(longest,) * limits.ADDRESSES_MAX,
        name="ä" * 64,
        labels=tuple(f"label{number:02}=".ljust(limits.LABEL_LENGTH_MAX, "x") for number in range(16)),
        capabilities=msgspec.structs.replace(CAPABILITIES, devices=("d" * 24,) * 8),
        chain=b"x" * limits.CHAIN_BYTES_MAX,
    )
    assert decode_record(encode_record(record)) == record


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_malformed(data: bytes) -> None:
    for decode in (decode_record, decode_signed):
        with pytest.raises((Malformed, Oversized)):
            decode(data)


@given(st.integers(0, len(encode_record(RECORD)) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_record_or_malformed(at: int, byte: int) -> None:
    data = bytearray(encode_record(RECORD))
    data[at] = byte
    try:
        decode_record(bytes(data))
    except Malformed:
        return
