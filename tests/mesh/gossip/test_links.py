"""What links leave to others: the turns of tasks, and the time of a writer."""

from __future__ import annotations

import trio

from mesh.gossip.links import HEARD_AT_ONCE, Link, Turn
from mesh.host.wire.loopback import loopback_pair
from mesh.rpc import Channel
from protocols import limits, streams
from protocols.gossip import GOSSIP_CODEC, GossipMessage
from protocols.ids import PeerId
from simulations.network.internet import NETWORK_ID
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


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


async def test_what_is_flushed_goes_out_at_once_and_what_comes_right_behind_after_a_rest() -> None:
    ours, theirs = loopback_pair(PeerId("peer"))
    link, arrived = Link(PeerId("peer"), is_ours=True), list[tuple[float, bytes]]()
    channel: Channel[GossipMessage] = Channel(ours, streams.GOSSIP, GOSSIP_CODEC, NETWORK_ID)

    async def read() -> None:
        while data := await theirs.receive():
            arrived.append((trio.current_time() - began_s, data))

    link.send(b"before there is a stream ")
    link.flush()
    async with trio.open_nursery() as nursery:
        began_s = trio.current_time()
        nursery.start_soon(link.run, channel, lambda _: 0, lambda: None, Turn())
        nursery.start_soon(read)
        await trio.sleep(1)
        for word in (b"one ", b"two "):  # together, since both were there
            link.send(word)
        link.flush()
        link.send(b"three ")
        link.flush()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    (at_first_s, first), *rest = arrived
    assert first.endswith(b"before there is a stream ")
    assert at_first_s == 0
    assert rest == [(1, b"one two "), (1 + limits.GOSSIP_WRITE_PAUSE_S, b"three ")]
