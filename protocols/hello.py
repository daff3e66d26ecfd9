"""The first frame in each direction of every stream: who speaks which version of what, for which network.

An unknown major is refused in a sentence; minors and features only ever grow.
"""

from __future__ import annotations

from typing import Final

import msgspec

from protocols.errors import Malformed, Unauthenticated
from protocols.ids import NetworkId

MAJOR: Final = 1
MINOR: Final = 3
"""1: sampling beyond temperature, top_k and top_p; log-probabilities. 2: rows of a prompt that an earlier session left.
3: what a row of KV takes at a node."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Sent by the opener at once and by the acceptor before its first message."""

    major: int
    minor: int
    network: NetworkId
    features: tuple[str, ...] = ()


_decoder = msgspec.msgpack.Decoder(Hello)


def encode_hello(network: NetworkId) -> bytes:
    return msgspec.msgpack.encode(Hello(MAJOR, MINOR, network))


def check_hello(body: bytes, network: NetworkId) -> Hello:
    """The peer's Hello, if it can be spoken with.

    Raises `Malformed` for other bytes or another major version, `Unauthenticated` for another network.
    """
    try:
        hello = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise Malformed(f"not a Hello: {error}") from error
    if hello.major != MAJOR:
        raise Malformed(
            f"the peer speaks weft protocol {hello.major}, this node {MAJOR}: bring both to one release"
        )
    if hello.network != network:
        raise Unauthenticated("the peer belongs to another network")
    return hello
