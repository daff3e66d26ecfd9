"""The bytes of gossip: golden ones, and those that no honest peer sends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols import limits
from protocols.errors import Malformed
from protocols.gossip import (
    GOSSIP_CODEC,
    Bundle,
    Digest,
    Full,
    Graft,
    Have,
    Item,
    Join,
    Listing,
    Prune,
    Push,
    Topic,
    Want,
    Welcome,
    decode_bundle,
    encode_bundle,
    id_of,
    join_ids,
    split_ids,
)  # fmt: skip
from protocols.ids import PeerId

ADA = PeerId("12D3KooW" + "a" * 32)
ID = bytes(range(16))
BUNDLE = Bundle(ADA, 1_800_000_000_001, 1_800_000_000_000, (Item(2, "k", b"fine", 60), Item(4, "", b"", 1)))
BUNDLE_HEX = (
    "94d928" + ADA.encode().hex() + "cf000001a3185c5001cf000001a3185c500092"
    "9402a16bc40466696e653c9404a0c40001"
)  # fmt: skip

GOLDEN: tuple[tuple[Any, list[Any], str], ...] = (
    (Join(True), ["join", True], "92a46a6f696ec3"),
    (Welcome(), ["welcome"], "91a777656c636f6d65"),
    (Full(), ["full"], "91a466756c6c"),
    (Push(2, b"b", b"s" * 64), ["push", 2, b"b", b"s" * 64], "94a47075736802c40162c440" + "73" * 64),
    (Have(ID, b"\3"), ["have", ID, b"\3"], "93a468617665c410" + ID.hex() + "c40103"),
    (Graft(ID, False), ["graft", ID, False], "93a56772616674c410" + ID.hex() + "c2"),
    (Prune(ADA), ["prune", ADA], "92a57072756e65d928" + ADA.encode().hex()),
    (Digest(bytes(8)), ["digest", bytes(8)], "92a6646967657374c408" + "00" * 8),
    (Listing(16, b"\0", ID), ["listing", 16, b"\0", ID], "94a76c697374696e6710c40100c410" + ID.hex()),
    (Want(ID), ["want", ID], "92a477616e74c410" + ID.hex()),
)


@pytest.mark.parametrize(("message", "means", "hexed"), GOLDEN)
def test_messages_are_these_bytes_for_ever(message: Any, means: list[Any], hexed: str) -> None:
    assert GOSSIP_CODEC.encode(message).hex() == hexed
    assert GOSSIP_CODEC.decode(bytes.fromhex(hexed)) == message
    assert msgpack.unpackb(bytes.fromhex(hexed)) == means


def test_a_bundle_is_these_bytes_for_ever() -> None:
    assert encode_bundle(BUNDLE).hex() == BUNDLE_HEX
    assert decode_bundle(bytes.fromhex(BUNDLE_HEX)) == BUNDLE
    assert id_of(bytes.fromhex(BUNDLE_HEX)).hex() == "067a674e02ff43040f10e56e574928cb"


def test_topics_keep_their_numbers() -> None:
    assert [topic.value for topic in Topic] == [1, 2, 3, 4, 5, 6, 7]


def test_a_message_of_a_later_minor_may_be_longer() -> None:
    assert GOSSIP_CODEC.decode(msgpack.packb(["join", True, "more"])) == Join(True)
    longer = [ADA, 1, 1, [[2, "k", b"x", 60, "more"]], "more"]
    assert decode_bundle(msgpack.packb(longer)).items == (Item(2, "k", b"x", 60),)


def bundle(**changes: Any) -> bytes:
    fields = {"author": ADA, "sequence": 1, "made_ms": 1, "items": [[2, "k", b"x", 60]]} | changes
    return bytes(msgpack.packb(list(fields.values())))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bundle()[:-1],
        bundle() + b"\0",
        bundle(author="not base58!" * 5),
        bundle(sequence=-1),
        bundle(sequence=2**60),
        bundle(made_ms=1.5),
        bundle(items=[]),
        bundle(items=[[2, "k", b"x", 60]] * 2),
        bundle(items=[[2, str(number), b"x", 60] for number in range(limits.GOSSIP_ITEMS_MAX + 1)]),
        bundle(items=[[2, "k" * (limits.GOSSIP_KEY_CHARS_MAX + 1), b"x", 60]]),
        bundle(items=[[2, "k", bytes(limits.GOSSIP_ITEM_BYTES_MAX + 1), 60]]),
        bundle(items=[[2, "k", b"x", 0]]),
        bundle(items=[[2, "k", b"x", limits.GOSSIP_TTL_S_MAX + 1]]),
        bundle(items=[[256, "k", b"x", 60]]),
        bundle(items=[[2, "k", "text", 60]]),
    ],
)
def test_what_is_no_bundle_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_bundle(body)


def test_ids_are_split_as_they_were_joined() -> None:
    ids = [id_of(b"a"), id_of(b"b")]
    assert split_ids(join_ids(ids)) == ids
    assert split_ids(b"") == []
    with pytest.raises(Malformed):
        split_ids(bytes(17))


VALID = [encode_bundle(BUNDLE), *(GOSSIP_CODEC.encode(message) for message, _, _ in GOLDEN)]
DECODERS: list[Callable[[bytes], Any]] = [GOSSIP_CODEC.decode, decode_bundle]


@pytest.mark.parametrize("decode", DECODERS)
@given(st.binary(max_size=400))
@example(b"\x91" * 2000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xc6\xff\xff\xff\xff")
def test_any_bytes_are_decoded_or_refused_with_a_typed_error(
    decode: Callable[[bytes], Any], body: bytes
) -> None:
    with_typed_errors(decode, body)


@pytest.mark.parametrize("decode", DECODERS)
@given(st.sampled_from(VALID), st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_damaged_messages_are_decoded_or_refused_with_a_typed_error(
    decode: Callable[[bytes], Any], body: bytes, at: int, put: bytes
) -> None:
    with_typed_errors(decode, body[:at] + put + body[at + len(put) :])


def with_typed_errors(decode: Callable[[bytes], Any], body: bytes) -> None:
    with suppress(Malformed):
        decode(body)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "body",
    [
        bundle(items=[[2, str(number), b"", 60] for number in range(limits.GOSSIP_ITEMS_MAX)]),
        bundle(items=[[2, "", b"", 60]] * 10_000),
        bytes(msgpack.packb(["want", bytes(200_000)])),
        bytes(msgpack.packb(["have", bytes(16 * limits.GOSSIP_IDS_MAX), bytes(limits.GOSSIP_IDS_MAX)])),
        b"\xdd\x7f\xff\xff\xff" + bytes(200_000),
        b"\x91" * 200_000,
    ],
    ids=["many items", "too many items", "too many ids", "ids", "a false length", "deep"],
)
def test_decoding_takes_at_most_four_times_the_input(decode: Callable[[bytes], Any], body: bytes) -> None:
    with_typed_errors(decode, body)  # the first error of a kind brings its own tables
    tracemalloc.start()
    try:
        with_typed_errors(decode, body)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes <= 4 * len(body) + 32_768


def test_the_longest_message_of_every_kind_fits_into_a_frame() -> None:
    longest = (
        Push(255, bytes(limits.GOSSIP_BUNDLE_BYTES_MAX), bytes(64)),
        Have(bytes(16 * limits.GOSSIP_IDS_MAX), bytes(limits.GOSSIP_IDS_MAX)),
        Listing(256, bytes(256), bytes(16 * limits.GOSSIP_IDS_MAX)),
    )
    for message in longest:
        assert len(msgspec.msgpack.encode(message)) <= limits.CONTROL_BYTES_MAX
