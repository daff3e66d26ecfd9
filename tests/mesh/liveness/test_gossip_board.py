"""The board over gossip: what is put on it, what is read from it, and what must not be on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from mesh.feed import Feed, Subscription
from mesh.liveness.gossip_board import GossipBoard, check_liveness
from protocols import limits
from protocols.errors import Malformed
from protocols.gossip import Heard, Topic
from protocols.ids import PeerId
from protocols.liveness import ITEM_CODEC, Alive, Left, LivenessItem, Suspect
from simulations.network.internet import peer_id

OWN, A, B = (peer_id(number) for number in range(1, 4))
ALIVE = Alive(5, bytes(8))


def heard(author: PeerId, key: str, item: LivenessItem | None, sequence: int = 1) -> Heard:
    body = ITEM_CODEC.encode(item) if item is not None else b""
    return Heard(author, Topic.LIVENESS, key, body, 0, sequence)


class NotedWords:
    """Gossip's side of the seam, as a record."""

    def __init__(self, *items: Heard) -> None:
        self.feed: Feed[Heard] = Feed()
        self.there = items
        self.said: list[tuple[Topic, str, bytes, float]] = []

    def publish(self, topic: Topic, key: str, body: bytes, ttl_s: float) -> None:
        self.said.append((topic, key, body, ttl_s))

    def items(self, topic: Topic) -> tuple[Heard, ...]:
        return self.there

    def subscribe(self, topic: Topic) -> Subscription[Heard]:
        return self.feed.subscribe()


def test_items_are_published_under_whom_they_are_about_and_withdrawn_there() -> None:
    words = NotedWords()
    board = GossipBoard(words, OWN)
    board.publish(ALIVE, 600.0)
    board.publish(Suspect(A, 5), 72.0)
    board.withdraw(A)
    assert words.said == [
        (Topic.LIVENESS, "", ITEM_CODEC.encode(ALIVE), 600.0),
        (Topic.LIVENESS, A, ITEM_CODEC.encode(Suspect(A, 5)), 72.0),
        (Topic.LIVENESS, A, b"", 1.0),
    ]


async def test_what_is_there_is_read_first_and_own_and_withdrawn_words_are_not() -> None:
    words = NotedWords(heard(A, "", ALIVE), heard(OWN, "", ALIVE))
    board = GossipBoard(words, OWN)
    assert [*board.said()] == [(A, ALIVE)]
    items = board.items()
    assert await anext(items) == (A, ALIVE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_all, words, [heard(OWN, "", ALIVE), heard(B, A, None), heard(B, "", Left(2))])
        assert await anext(items) == (B, Left(2))
    words.feed.close()
    assert [item async for item in items] == []


async def tell_all(words: NotedWords, news: list[Heard]) -> None:
    await trio.testing.wait_all_tasks_blocked()
    for each in news:
        words.feed.tell(each)


async def test_a_reader_that_falls_behind_reads_all_again() -> None:
    words = NotedWords(heard(A, "", ALIVE))
    items: AsyncIterator[tuple[PeerId, LivenessItem]] = GossipBoard(words, OWN).items()
    await anext(items)
    async with trio.open_nursery() as nursery:
        flood = [heard(B, "", Left(number)) for number in range(limits.EVENTS_BEHIND_MAX + 2)]
        nursery.start_soon(tell_all, words, flood)
        read = [await anext(items) for _ in range(limits.EVENTS_BEHIND_MAX + 2)]
    assert read[-1] == (A, ALIVE)
    words.feed.close()
    assert [item async for item in items] == []


@pytest.mark.parametrize(
    "wrong",
    [
        heard(A, B, ALIVE),
        heard(A, "", Suspect(B, 1)),
        heard(A, B, Suspect(OWN, 1)),
        heard(A, A, Suspect(A, 1)),
        Heard(A, Topic.LIVENESS, "", b"\xff", 0, 1),
        Heard(A, Topic.LIVENESS, "", b"", 0, 1),
    ],
)
def test_words_that_are_no_liveness_items_are_not_passed_on(wrong: Heard) -> None:
    with pytest.raises(Malformed):
        check_liveness(wrong)


def test_words_that_are_pass() -> None:
    check_liveness(heard(A, "", ALIVE))
    check_liveness(heard(A, B, Suspect(B, 1)))
