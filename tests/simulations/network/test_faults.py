"""What a virtual internet can do to machines and to the ways between them."""

from __future__ import annotations

import pytest
import trio

from protocols import limits, streams
from protocols.errors import Disconnected, TimedOut
from protocols.seams import PeerDown, PeerUp
from protocols.streams import Plane
from simulations.network.internet import VirtualWorld
from tests.contracts.talk import await_events, echo, exchange, expect_end, introduce
from tests.simulations.network.talking import pair
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


async def test_a_one_way_cut_lets_answers_through_and_no_questions() -> None:
    async with pair(VirtualWorld()) as made:
        made.two.handle(streams.MEMBERS, echo)
        stream = await made.open()
        made.world.cut_one_way(made.two.peer, made.one.peer)
        await stream.send(b"hello")
        with trio.move_on_after(10) as waited:
            await stream.receive()
        assert waited.cancelled_caught
        made.world.mend(made.one.peer, made.two.peer)
        assert await stream.receive() == b"hello"
        made.world.cut_one_way(made.one.peer, made.two.peer)
        made.two.handle(streams.DECODE, echo)
        with pytest.raises(TimedOut):  # a dial needs both directions
            await made.open(streams.DECODE)
        with pytest.raises(TimedOut):
            await made.two.connect(made.one.peer, Plane.DATA)


async def test_what_is_said_the_other_way_passes_a_one_way_cut() -> None:
    async with pair(VirtualWorld()) as made:
        stream = await made.open()
        made.world.cut_one_way(made.two.peer, made.one.peer)
        await stream.send(b"heard")
        await trio.sleep(0.002)
        assert [data for _, data in made.heard] == [b"heard"]


async def test_what_waited_behind_a_cut_arrives_in_order_and_within_a_timeout_of_the_mend() -> None:
    async with pair(VirtualWorld(latency_s=0.05)) as made:
        stream = await made.open()
        await stream.send(b"under way, ")
        made.world.cut(made.one.peer, made.two.peer)
        for word in (b"early, ", b"late, "):
            await trio.sleep(3)
            await stream.send(word)
        assert not made.heard
        made.world.mend(made.one.peer, made.two.peer)
        start_s = trio.current_time()
        await stream.send(b"last")
        await trio.sleep(1)
        assert b"".join(data for _, data in made.heard) == b"under way, early, late, last"
        assert start_s + 0.05 <= made.heard[0][0] <= start_s + 0.05 + 0.2


async def test_a_mend_mends_one_pair_and_unsilencing_one_peer() -> None:
    world = VirtualWorld()
    one, two, three = (world.network().peer for _ in range(3))
    world.cut(one, two)
    world.cut(one, three)
    world.silence(two)
    world.mend(one, two)
    assert not world.links.is_open(one, two)
    world.unsilence(two)
    assert world.links.is_open(one, two)
    assert world.links.is_open(two, one)
    assert not world.links.is_open(three, one)


async def test_a_reset_ends_the_connections_of_a_pair_at_both_ends_at_once_and_they_come_again() -> None:
    async with pair(VirtualWorld(latency_s=0.4)) as made:
        stream = await made.open()
        seen_by_two = made.two.events()
        made.world.reset(made.two.peer, made.one.peer)
        assert not made.one.connections()
        assert not made.two.connections()
        await expect_end(stream)
        assert await anext(seen_by_two) == PeerDown(made.one.peer, Plane.CONTROL)
        await (await made.open()).send(b"again")


async def test_nobody_is_told_of_a_machine_that_vanishes() -> None:
    async with pair(VirtualWorld()) as made:
        stream = await made.open()
        events = made.one.events()
        made.world.vanish(made.two.peer)
        await stream.send(bytes(limits.STREAM_WINDOW_BYTES))
        assert not stream.send_nowait(b"x")  # swallowed until the window is full
        with trio.move_on_after(3600) as waited:
            await anext(events)
        assert waited.cancelled_caught
        with pytest.raises(TimedOut):
            await made.one.connect(made.two.peer, Plane.DATA)


async def test_a_machine_that_comes_back_resets_what_still_comes_for_its_old_connections() -> None:
    async with pair(VirtualWorld(latency_s=0.05)) as made:
        stream = await made.open()
        made.world.vanish(made.two.peer)
        await trio.sleep(60)
        async with made.world.network(made.two.peer).run():
            await trio.sleep(60)
            assert made.one.connections()
            start_s = trio.current_time()
            await stream.send(b"anybody?")
            await await_events(made.one.events(), PeerDown(made.two.peer, Plane.CONTROL))
            assert trio.current_time() - start_s == pytest.approx(0.1)
            with pytest.raises(Disconnected):
                await stream.receive()
            assert not made.heard


async def test_what_was_sent_to_a_vanished_machine_is_sent_again_and_reset_once_it_is_back() -> None:
    async with pair(VirtualWorld(latency_s=0.05)) as made:
        stream = await made.open()
        made.world.vanish(made.two.peer)
        await stream.send(b"anybody?")
        await trio.sleep(60)
        assert made.one.connections()
        async with made.world.network(made.two.peer).run():
            await expect_end(stream)
        assert not made.heard


async def test_a_machine_that_comes_back_and_dials_replaces_its_old_connections() -> None:
    async with pair(VirtualWorld()) as made:
        await made.two.connect(made.one.peer, Plane.CONTROL)
        made.one.handle(streams.MEMBERS, echo)
        await trio.sleep(60)
        events = made.one.events()
        made.world.vanish(made.two.peer)
        again = made.world.network(made.two.peer)
        async with again.run():
            introduce(made.one, again)
            assert await exchange(again, made.one, streams.MEMBERS, b"back") == b"back"
            gone, up = PeerDown(again.peer, Plane.CONTROL), PeerUp(again.peer, Plane.CONTROL)
            assert [await anext(events), await anext(events)] == [gone, up]
            assert len(made.one.connections()) == 1


async def test_a_machine_without_the_process_refuses_at_once() -> None:
    async with pair(VirtualWorld(latency_s=0.05)) as made:
        made.world.kill(made.two.peer)
        start_s = trio.current_time()
        with pytest.raises(Disconnected, match="refused"):
            await made.one.connect(made.two.peer, Plane.CONTROL)
        assert trio.current_time() - start_s == pytest.approx(0.1)


async def test_a_paused_process_takes_bytes_and_answers_nothing_until_it_goes_on() -> None:
    async with pair(VirtualWorld()) as made:
        stream = await made.open()
        made.world.pause(made.two.peer)
        await stream.send(b"taken")
        for kind in (streams.MEMBERS, streams.WEIGHTS):  # a new stream, and a handshake
            with pytest.raises(TimedOut):
                await made.open(kind)
        await trio.sleep(20)
        opened = trio.Event()

        async def open_one() -> None:
            await (await made.open()).send(b"new")
            opened.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one)
            await trio.sleep(2)
            assert not opened.is_set()
            made.world.resume(made.two.peer)
            with trio.fail_after(0.1):
                await opened.wait()
        await trio.sleep(0.1)
        assert [data for _, data in made.heard] == [b"taken", b"new"]
        assert len(made.two.connections()) == 1


async def test_of_two_connections_dialled_at_once_one_is_left_on_both_sides() -> None:
    async with pair(VirtualWorld(latency_s=0.05)) as made:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.one.connect, made.two.peer, Plane.CONTROL)
            nursery.start_soon(made.two.connect, made.one.peer, Plane.CONTROL)
        await trio.sleep(30)
        (mine,), (theirs,) = made.one.connections(), made.two.connections()
        assert mine.dialled is not theirs.dialled
        assert mine.dialled is (made.one.peer < made.two.peer)
