"""Events for many readers."""

from __future__ import annotations

import pytest
import trio

from mesh.feed import Feed
from protocols import limits
from protocols.errors import Overloaded


async def test_every_reader_hears_all_from_its_subscription_on() -> None:
    feed: Feed[int] = Feed()
    first = feed.subscribe()
    feed.tell(1)
    second = feed.subscribe()
    feed.tell(2)
    feed.close()
    assert [event async for event in first] == [1, 2]
    assert [event async for event in second] == [2]


async def test_a_reader_that_waits_hears_at_once() -> None:
    feed: Feed[int] = Feed()
    events = feed.subscribe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        feed.tell(7)
        assert await anext(events) == 7


async def test_a_reader_too_far_behind_is_ended_and_the_others_are_not() -> None:
    feed: Feed[int] = Feed()
    slow, quick = feed.subscribe(), feed.subscribe()
    for event in range(limits.EVENTS_BEHIND_MAX + 1):
        feed.tell(event)
        assert await anext(quick) == event
    kept = [await anext(slow) for _ in range(limits.EVENTS_BEHIND_MAX)]
    assert kept == list(range(limits.EVENTS_BEHIND_MAX))
    with pytest.raises(Overloaded):
        await anext(slow)


async def test_a_reader_that_lets_go_is_told_no_more() -> None:
    feed: Feed[int] = Feed()
    with feed.subscribe() as events:
        feed.tell(1)
    feed.tell(2)
    assert [event async for event in events] == [1]


async def test_a_reader_takes_all_that_has_gathered_in_one_turn() -> None:
    feed: Feed[int] = Feed()
    events = feed.subscribe()
    heard = 0

    async def read() -> None:
        nonlocal heard
        async for _ in events:
            heard += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(10):
            for event in range(limits.EVENTS_BEHIND_MAX // 2):
                feed.tell(event)
            await trio.sleep(0)
            await trio.sleep(0)
        feed.close()
    assert heard == 10 * (limits.EVENTS_BEHIND_MAX // 2)
