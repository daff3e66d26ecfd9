"""What links leave to others: the turns of tasks, and the time of a writer."""

from __future__ import annotations

import trio

from mesh.gossip.links import HEARD_AT_ONCE, Turn


async def test_all_links_together_hear_no_more_at_once_than_one_may() -> None:
    turn, news, most = Turn(), 0, 0

    async def link() -> None:
        nonlocal news
        for _ in range(HEARD_AT_ONCE):
            while turn.is_over:
                await turn.end()
            turn.count(1)
            news += 1

    async def read() -> None:
        nonlocal news, most
        while True:
            most, news = max(most, news), 0
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with trio.open_nursery() as links:
            for _ in range(8):
                links.start_soon(link)
        nursery.cancel_scope.cancel()
    assert HEARD_AT_ONCE <= most <= 2 * HEARD_AT_ONCE  # a reader may have its turn before or behind a link
