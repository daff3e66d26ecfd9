"""Streams to oneself."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mesh.host.wire.loopback import WINDOW_BYTES, loopback_pair
from protocols.errors import Disconnected
from protocols.ids import PeerId

ME = PeerId("me")


async def test_bytes_arrive_in_order_and_then_the_end() -> None:
    here, there = loopback_pair(ME)
    await here.send(b"abc")
    await here.send(memoryview(b"def"))
    await here.close()
    assert [await there.receive(4), await there.receive(4), await there.receive()] == [b"abcd", b"ef", b""]
    assert await there.receive() == b""


async def test_both_directions_are_independent() -> None:
    here, there = loopback_pair(ME)
    await here.close()
    await there.send(b"still open")
    assert await here.receive() == b"still open"
    with pytest.raises(Disconnected):
        await here.send(b"x")


async def test_a_sender_waits_for_the_reader(autojump_clock: trio.testing.MockClock) -> None:
    here, there = loopback_pair(ME)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send, bytes(3 * WINDOW_BYTES))
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        while len(received) < 3 * WINDOW_BYTES:
            received += await there.receive()


async def test_a_reset_wakes_both_ends_and_drops_what_was_under_way() -> None:
    here, there = loopback_pair(ME)
    await there.send(b"never read")

    async def expect_disconnected() -> None:
        with pytest.raises(Disconnected):
            await there.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_disconnected)
        await wait_all_tasks_blocked()
        await here.reset()
    for stream in (here, there):
        with pytest.raises(Disconnected):
            await stream.receive()
        with pytest.raises(Disconnected):
            await stream.send(b"x")


async def test_a_reset_after_both_closed_loses_nothing() -> None:
    here, there = loopback_pair(ME)
    await there.send(b"goodbye")
    await there.close()
    await here.close()
    await there.reset()
    assert await here.receive() == b"goodbye"
    assert await here.receive() == b""
