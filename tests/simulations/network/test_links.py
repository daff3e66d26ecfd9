"""What a way between two machines does to what is sent on it."""

from __future__ import annotations

import pytest
import trio

from protocols import streams
from protocols.ids import PeerId
from simulations.network.delivery import Delivery
from simulations.network.internet import VirtualWorld, peer_id
from simulations.network.lane import HEADER_BYTES
from simulations.network.links import Link, Links
from tests.simulations.network.talking import pair
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME
ONE, TWO = peer_id(1), peer_id(2)


def make_links(link: Link, seed: int = 0) -> Links:
    return Links(link, seed, Delivery())


def arrivals_ms(links: Links, count: int, one: PeerId = ONE, two: PeerId = TWO) -> list[int]:
    lane = links.lane(one, two)
    return [lane.arrival_ms(1000) for _ in range(count)]


async def test_times_are_rounded_up_to_the_millisecond() -> None:
    assert arrivals_ms(make_links(Link(0.0101)), 1) == [11]
    assert arrivals_ms(make_links(Link(0.010)), 1) == [10]
    await trio.sleep(0.0995)
    assert arrivals_ms(make_links(Link(0.01)), 1) == [110]


async def test_a_way_that_was_disturbed_is_again_as_it_was_laid() -> None:
    links = make_links(Link(0.001))
    links.lay(ONE, TWO, Link(0.02))
    assert arrivals_ms(links, 1) == [20]
    links.set(ONE, TWO, Link(0.5))
    assert arrivals_ms(links, 1) == [500]
    assert links.between(TWO, ONE) == Link(0.001)
    links.reset(ONE, TWO)
    assert arrivals_ms(links, 1) == [20]


async def test_a_new_default_is_felt_where_nothing_else_was_said() -> None:
    links = make_links(Link(0.001))
    links.lay(TWO, ONE, Link(0.02))
    assert arrivals_ms(links, 1) == [1]
    links.default = Link(0.3)
    assert arrivals_ms(links, 1) == [300]
    assert arrivals_ms(links, 1, TWO, ONE) == [20]


async def test_jitter_is_drawn_anew_for_every_segment_and_stays_within_its_bound() -> None:
    drawn = arrivals_ms(make_links(Link(0.1, jitter_s=0.05)), 200)
    assert all(100 <= each <= 150 for each in drawn)
    assert len(set(drawn)) > 20


async def test_every_way_draws_for_itself_and_every_seed_differently() -> None:
    link = Link(0.1, jitter_s=1.0)
    alone = arrivals_ms(make_links(link), 20)
    links = make_links(link)
    beside = arrivals_ms(links, 5, TWO, ONE)
    assert arrivals_ms(links, 20) == alone
    assert alone[:5] != beside
    assert arrivals_ms(make_links(link, seed=1), 20) != alone


async def test_lost_segments_are_sent_again_after_a_timeout_that_doubles() -> None:
    drawn = arrivals_ms(make_links(Link(0.1, loss=0.5)), 400)
    late = {each - 100 for each in drawn}
    assert {0, 400, 1200, 2800} <= late  # twice the round trip of 0.2 s, then as much again and twice that
    assert all(each in (400 * (2**lost - 1) for lost in range(8)) for each in late if each < 60_000)
    assert 120 < sum(each > 100 for each in drawn) < 280


async def test_the_timeout_is_200_ms_at_least() -> None:
    assert {0, 200, 600} <= {each - 1 for each in arrivals_ms(make_links(Link(0.001, loss=0.5)), 100)}


async def test_segments_leave_a_narrow_link_one_after_the_other() -> None:
    links = make_links(Link(0.01, bandwidth_bytes_s=1000 + HEADER_BYTES))
    assert arrivals_ms(links, 3) == [1010, 2010, 3010]
    await trio.sleep(10)
    assert arrivals_ms(links, 1) == [11_010]  # nothing is saved up while the link is idle
    assert arrivals_ms(links, 1, TWO, ONE) == [11_010]  # both directions at once


async def test_a_slow_link_serves_two_streams_one_after_the_other() -> None:
    async with pair(VirtualWorld()) as made:
        big, small = await made.open(), await made.open()
        made.world.links.set(made.one.peer, made.two.peer, Link(0.001, bandwidth_bytes_s=10_000))
        start_s = trio.current_time()
        await big.send(bytes(20_000))
        await small.send(b"x")
        await trio.sleep(10)
        (first_s, first), (second_s, second) = made.heard
        assert (len(first), second) == (20_000, b"x")
        assert 2.0 < first_s - start_s < second_s - start_s < 2.1


async def test_the_planes_of_a_pair_do_not_wait_for_each_other() -> None:
    async with pair(VirtualWorld()) as made:
        bulk, control = await made.open(streams.WEIGHTS), await made.open()
        made.world.links.set(made.one.peer, made.two.peer, Link(0.001, bandwidth_bytes_s=10_000))
        await bulk.send(bytes(20_000))
        await control.send(b"x")
        await trio.sleep(10)
        assert [len(data) for _, data in made.heard] == [1, 20_000]


async def test_a_lost_segment_delays_what_is_behind_it_on_its_connection() -> None:
    async with pair(VirtualWorld(seed=1)) as made:  # of those that lose the first
        stream, other = await made.open(), await made.open()
        made.world.links.set(made.one.peer, made.two.peer, Link(0.001, loss=0.9))
        start_s = trio.current_time()
        await stream.send(b"lost")
        made.world.links.reset(made.one.peer, made.two.peer)
        await other.send(b"behind it")
        await trio.sleep(300)
        (lost_s, _), (behind_s, _) = made.heard
        assert {data for _, data in made.heard} == {b"lost", b"behind it"}
        assert lost_s == behind_s >= start_s + 0.2


async def test_a_link_that_becomes_fast_does_not_let_anything_overtake() -> None:
    async with pair(VirtualWorld(latency_s=0.4)) as made:
        stream = await made.open()
        await stream.send(b"first, ")
        made.world.links.set_latency(made.one.peer, made.two.peer, 0.001)
        await stream.send(b"second")
        start_s = trio.current_time()
        await trio.sleep(1)
        assert b"".join(data for _, data in made.heard) == b"first, second"
        assert made.heard[0][0] - start_s == pytest.approx(0.4)


async def test_what_is_still_under_way_on_a_link_that_has_become_fast_is_known() -> None:
    async with pair(VirtualWorld(latency_s=0.4)) as made:
        way = (made.one.peer, made.two.peer)
        stream = await made.open()
        start_s = trio.current_time()
        await stream.send(b"word")
        made.world.links.set_latency(*way, 0.001)
        assert made.world.links.due_s(*way) == pytest.approx(start_s + 0.4)
        await trio.sleep(1)
        assert made.world.links.due_s(*way) == 0
