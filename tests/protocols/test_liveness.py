"""Liveness on the wire: the bytes stay what they are, and what can't be is refused."""

from __future__ import annotations

import msgspec
import pytest

from protocols.errors import Malformed
from protocols.ids import PeerId
from protocols.liveness import (
    INCARNATION_MAX,
    ITEM_CODEC,
    OWN_KEY,
    WATCH_CODEC,
    Alive,
    Inquire,
    Left,
    LivenessItem,
    Ping,
    Pong,
    Reached,
    Suspect,
    WatchMessage,
    key_of,
)

PEER = PeerId("12D3KooW" + "a" * 44)
PEER_HEX = "d934" + PEER.encode().hex()

GOLDEN: list[tuple[WatchMessage, str]] = [
    (Alive(1001, bytes(range(8))), "93a5616c697665cd03e9c4080001020304050607"),
    (Suspect(PEER, 7), "94a773757370656374" + PEER_HEX + "07c2"),
    (Suspect(PEER, 7, True), "94a773757370656374" + PEER_HEX + "07c3"),
    (Left(3), "92a46c65667403"),
    (Inquire(PEER, 9), "93a7696e7175697265" + PEER_HEX + "09"),
    (Reached(9, True), "93a77265616368656409c3"),
    (Ping(5), "92a470696e6705"),
    (Pong(5), "92a4706f6e6705"),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN)
def test_messages_have_these_bytes(message: WatchMessage, golden: str) -> None:
    assert WATCH_CODEC.encode(message).hex() == golden
    assert WATCH_CODEC.decode(bytes.fromhex(golden)) == message


def test_a_suspicion_without_the_last_field_is_one_that_was_not_refused() -> None:
    body = msgspec.msgpack.encode(["suspect", PEER, 7])
    assert ITEM_CODEC.decode(body) == Suspect(PEER, 7, refused=False)


@pytest.mark.parametrize("message", [Ping(5), Pong(5)])
def test_pings_are_those_of_nodes_that_know_nothing_else(message: Ping | Pong) -> None:
    assert WATCH_CODEC.decode(WATCH_CODEC.encode(message)) == message


@pytest.mark.parametrize(
    "body",
    [
        ["alive", -1, bytes(8)],
        ["alive", INCARNATION_MAX + 1, bytes(8)],
        ["alive", 1, bytes(7)],
        ["alive", 1, bytes(9)],
        ["alive", 1.5, bytes(8)],
        ["suspect", "nobody", 1],
        ["suspect", PEER, -1],
        ["left"],
        ["ping", 1],
        ["reached", 1, True],
        [],
        "alive",
    ],
)
def test_what_is_no_item_is_malformed(body: object) -> None:
    with pytest.raises(Malformed):
        ITEM_CODEC.decode(msgspec.msgpack.encode(body))


@pytest.mark.parametrize(
    ("item", "key"), [(Alive(1, bytes(8)), OWN_KEY), (Left(1), OWN_KEY), (Suspect(PEER, 1), PEER)]
)
def test_a_node_has_one_word_about_itself_and_one_about_each_other(item: LivenessItem, key: str) -> None:
    assert key_of(item) == key
