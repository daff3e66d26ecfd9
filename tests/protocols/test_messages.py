"""Golden bytes of every message, read and written by weft and by an independent reader."""

from __future__ import annotations

import math
import typing

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import membership, placement, session, weights
from protocols.errors import Malformed
from protocols.liveness import WATCH_CODEC, Ping
from protocols.messages import Codec
from protocols.placement import PLACEMENT_CODEC, Capacity
from protocols.session import SESSION_CODEC
from tests.protocols.vectors import GROWN, GROWN_HEX, HEX, OPEN_MEANS, VECTORS, Vector

each_vector = pytest.mark.parametrize(
    "vector", [*VECTORS, *GROWN], ids=lambda vector: f"{type(vector).__name__}-{vector.name}"
)
NEWEST = {vector.name: vector for vector in (*VECTORS, *GROWN)}
each_newest = pytest.mark.parametrize("vector", NEWEST.values(), ids=NEWEST)


class _Measured(msgspec.Struct, frozen=True, array_like=True):
    value: float
    beside: bytes


@each_newest
def test_a_message_is_written_as_its_golden_bytes(vector: Vector) -> None:
    assert vector.codec.encode(vector.message).hex() == vector.hex


@each_vector
def test_golden_bytes_are_read_as_the_message(vector: Vector) -> None:
    assert vector.codec.decode(bytes.fromhex(vector.hex)) == vector.message


@each_vector
def test_an_independent_reader_finds_the_same_meaning(vector: Vector) -> None:
    assert msgpack.unpackb(bytes.fromhex(vector.hex)) == vector.means


@each_newest
def test_fields_that_a_later_minor_adds_at_the_end_are_passed_over(vector: Vector) -> None:
    longer = msgpack.packb([*vector.means, "later", 7])
    assert vector.codec.decode(longer) == vector.message


@each_vector
def test_a_message_cut_short_anywhere_is_malformed(vector: Vector) -> None:
    golden = bytes.fromhex(vector.hex)
    for length in range(len(golden)):
        with pytest.raises(Malformed):
            vector.codec.decode(golden[:length])


@each_vector
def test_a_message_with_anything_behind_it_is_malformed(vector: Vector) -> None:
    with pytest.raises(Malformed):
        vector.codec.decode(bytes.fromhex(vector.hex) + b"\xc0")


def test_every_message_of_every_kind_has_its_golden_bytes() -> None:
    unions = (
        membership.JoinMessage, membership.MembersMessage,
        placement.PlacementMessage, session.SessionMessage, weights.WeightsMessage,
    )  # fmt: skip
    messages = {message for union in unions for message in typing.get_args(union)}
    assert messages <= {type(vector.message) for vector in NEWEST.values()}
    assert set(HEX) == {vector.name for vector in VECTORS}
    for minor, golden in GROWN_HEX.items():
        assert set(golden) == {vector.name for vector in GROWN if vector.minor == minor}


@given(st.binary(max_size=300))
def test_garbage_gives_a_message_or_malformed_and_nothing_else(garbage: bytes) -> None:
    for codec in {id(vector.codec): vector.codec for vector in VECTORS}.values():
        try:
            message = codec.decode(garbage)
        except Malformed:
            continue
        assert isinstance(message, msgspec.Struct)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_malformed_at_any_depth(value: float) -> None:
    with pytest.raises(Malformed):
        PLACEMENT_CODEC.decode(msgpack.packb(["capacity", value, 0]))
    nested = [*OPEN_MEANS[:9], [value, 0, 1.0, 0]]
    with pytest.raises(Malformed):
        SESSION_CODEC.decode(msgpack.packb(nested))


@given(st.floats(), st.binary(max_size=64))
def test_no_bytes_beside_it_hide_or_feign_a_number_that_is_not_finite(value: float, beside: bytes) -> None:
    codec: Codec[_Measured] = Codec(_Measured)
    body = codec.encode(_Measured(value, beside))
    if math.isfinite(value):
        assert codec.decode(body) == _Measured(value, beside)
    else:
        with pytest.raises(Malformed):
            codec.decode(body)


@pytest.mark.parametrize(
    "means",
    [
        ["capacity", -1.0, 0],
        ["capacity", 1.0, -1],
        ["capacity", "1.0", 1],
        ["survey", "AB" * 32, [1, 1, 1, 1, 1, "f32"]],
        ["survey", "ab" * 32, [0, 1, 1, 1, 1, "f32"]],
        ["survey", "ab" * 32, [1, 1, 1, 1, 1, "f64"]],
        ["granted"],
        ["unheard of", 1],
        {"granted": 1},
        [],
        None,
        "granted",
    ],
)
def test_values_out_of_bounds_are_malformed(means: object) -> None:
    with pytest.raises(Malformed):
        PLACEMENT_CODEC.decode(msgpack.packb(means))


def test_deep_nesting_is_malformed() -> None:
    with pytest.raises(Malformed):
        WATCH_CODEC.decode(b"\x91" * 100_000)


def test_optional_fields_may_be_missing_at_the_end() -> None:
    assert PLACEMENT_CODEC.decode(msgpack.packb(["capacity", 1.0, 5])) == Capacity(1.0, 5, 0, False)
    assert WATCH_CODEC.decode(msgpack.packb(["ping", 5])) == Ping(5)
