"""The first frame of every stream."""

from __future__ import annotations

import msgpack
import pytest

from protocols import limits
from protocols.errors import Malformed, Unauthenticated
from protocols.hello import MAJOR, MINOR, Hello, check_hello, encode_hello
from tests.protocols.vectors import NETWORK


def test_ones_own_hello_is_accepted_and_short() -> None:
    hello = encode_hello(NETWORK)
    assert check_hello(hello, NETWORK) == Hello(MAJOR, MINOR, NETWORK)
    assert msgpack.unpackb(hello) == [1, 3, NETWORK, []]
    assert len(hello) < limits.HELLO_BYTES_MAX


def test_a_later_minor_is_accepted_with_whatever_it_adds() -> None:
    assert check_hello(msgpack.packb([MAJOR, 99, NETWORK, ["a", "b"], {"new": 1}]), NETWORK).minor == 99


@pytest.mark.parametrize("major", [0, MAJOR + 1])
def test_another_major_is_refused_in_a_sentence(major: int) -> None:
    with pytest.raises(
        Malformed, match=f"speaks weft protocol {major}, this node {MAJOR}: bring both to one"
    ):
        check_hello(msgpack.packb([major, 0, NETWORK, []]), NETWORK)


def test_another_network_is_unauthenticated() -> None:
    with pytest.raises(Unauthenticated, match="another network"):
        check_hello(msgpack.packb([MAJOR, MINOR, "f" * 32, []]), NETWORK)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x90", b"GET /", msgpack.packb([1, 0]), msgpack.packb("hello")]
)
def test_anything_else_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        check_hello(body, NETWORK)
