"""Streams over yamux, in memory and on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.host.wire.stream import MuxedStream
from protocols.errors import Disconnected
from tests.mesh.host.wires import MemoryWire, muxed_pair, wire_pair


@asynccontextmanager
async def stream_pair(
    wires: tuple[MemoryWire, MemoryWire] | None = None,
) -> AsyncIterator[tuple[MuxedStream, MuxedStream]]:
    async with muxed_pair(wires) as (here, there):
        yield await here.open_stream(), await there.accept_stream()


async def read_all(stream: MuxedStream) -> int:
    count = 0
    while data := await stream.receive():
        count += len(data)
    return count


async def test_a_reader_may_pause_for_minutes_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    """Trap T5: libp2p's own stream gives up after 5 s."""
    size_bytes = 24_000_000
    counts: list[int] = []
    async with stream_pair() as (here, there), trio.open_nursery() as nursery:

        async def read_late() -> None:
            await trio.sleep(300)
            counts.append(await read_all(there))

        nursery.start_soon(read_late)
        await here.send(bytes(size_bytes))
        await here.close()
    assert counts == [size_bytes]


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    async with stream_pair() as (here, there), trio.open_nursery() as nursery:
        received = bytearray()

        async def send() -> None:
            for number in range(200):
                await here.send(bytes([number]) * 100)
                await trio.sleep(0.0007)
            await here.close()

        nursery.start_soon(send)
        for _ in range(10_000):
            with trio.move_on_after(0.0003):
                piece = await there.receive(37)
                received += piece
                if not piece:
                    break
    assert bytes(received) == b"".join(bytes([number]) * 100 for number in range(200))


async def test_a_cancelled_send_harms_no_other_stream(autojump_clock: MockClock) -> None:
    wires = wire_pair()
    async with muxed_pair(wires) as (here, there):
        ends = [(await here.open_stream(), await there.accept_stream()) for _ in range(2)]
        wires[0].stalled = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends[0][0].send, bytes(100_000))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            wires[0].stalled.set()
        await ends[1][0].send(b"unharmed")
        assert await ends[1][1].receive() == b"unharmed"


async def test_what_one_turn_does_not_send_may_be_changed_once_it_was_taken() -> None:
    sent = bytes(range(250)) * 800
    async with stream_pair() as (here, there):
        memory = bytearray(sent)
        assert here.send_nowait(memory)
        memory[:] = bytes(len(memory))
        received = b""
        while len(received) < len(sent):
            received += await there.receive()
        assert received == sent


async def test_what_was_taken_without_waiting_goes_out_before_the_end(autojump_clock: MockClock) -> None:
    sent = bytes(range(250)) * 800
    wires = wire_pair()
    async with stream_pair(wires) as (here, there):
        wires[0].stalled = trio.Event()
        assert here.send_nowait(sent)
        await there.close()
        await wait_all_tasks_blocked()
        await here.close()
        await here.reset()  # as after any end: there is nothing to give up
        with pytest.raises(Disconnected):
            await here.send(b"more")
        wires[0].stalled.set()
        received = b""
        while data := await there.receive():
            received += data
        assert received == sent


async def test_a_reset_gives_up_what_was_taken_without_waiting(autojump_clock: MockClock) -> None:
    wires = wire_pair()
    async with stream_pair(wires) as (here, there):
        wires[0].stalled = trio.Event()
        assert here.send_nowait(bytes(200_000))
        await here.close()
        await here.reset()
        wires[0].stalled.set()
        with pytest.raises(Disconnected):
            while await there.receive():
                pass


async def test_nothing_is_taken_while_the_socket_is_full() -> None:
    wires = wire_pair()
    async with stream_pair(wires) as (here, there):
        wires[0].stalled = trio.Event()
        assert here.send_nowait(b"before ")
        assert not here.send_nowait(b"never")
        wires[0].stalled.set()
        await here.send(b"and after")
        received = b""
        while len(received) < len(b"before and after"):
            received += await there.receive()
        assert received == b"before and after"


async def test_nothing_is_taken_in_front_of_what_waits_on_the_same_stream() -> None:
    async with stream_pair() as (here, _), trio.open_nursery() as nursery:
        nursery.start_soon(here.send, bytes(300_000))  # more than its window
        await wait_all_tasks_blocked()
        assert not here.send_nowait(b"")
        nursery.cancel_scope.cancel()


async def test_a_reset_from_this_side_wakes_a_reader_of_this_side() -> None:
    async with stream_pair() as (here, there), trio.open_nursery() as nursery:

        async def expect_disconnected(stream: MuxedStream) -> None:
            with pytest.raises(Disconnected):
                await stream.receive()

        nursery.start_soon(expect_disconnected, here)
        nursery.start_soon(expect_disconnected, there)
        await wait_all_tasks_blocked()
        await here.reset()


async def test_a_reset_from_this_side_gives_up_what_was_not_read() -> None:
    async with stream_pair() as (here, there):
        await there.send(b"all there is")
        await there.close()
        await wait_all_tasks_blocked()
        await here.reset()
        with pytest.raises(Disconnected):
            await here.receive()


async def test_a_reset_after_the_end_leaves_what_was_sent_before_it() -> None:
    async with stream_pair() as (here, there):
        await there.send(b"the end")
        await there.close()
        await wait_all_tasks_blocked()
        await there.reset()
        await wait_all_tasks_blocked()
        assert await here.receive() == b"the end"
        assert await here.receive() == b""


@pytest.mark.parametrize("loses", ["here", "there"])
async def test_the_loss_of_the_connection_is_no_end_of_the_stream(
    loses: str, autojump_clock: MockClock
) -> None:
    wires = wire_pair()
    async with stream_pair(wires) as (here, there), trio.open_nursery() as nursery:

        async def expect_disconnected(stream: MuxedStream) -> None:
            with pytest.raises(Disconnected):
                await stream.receive()
            with pytest.raises(Disconnected):
                await stream.send(b"x")

        nursery.start_soon(expect_disconnected, here)
        nursery.start_soon(expect_disconnected, there)
        await wait_all_tasks_blocked()
        await (wires[0] if loses == "here" else wires[1]).close()


async def test_a_writer_that_waits_for_the_window_hears_of_the_loss(autojump_clock: MockClock) -> None:
    wires = wire_pair()
    async with stream_pair(wires) as (here, _), trio.open_nursery() as nursery:

        async def fill() -> None:
            with pytest.raises(Disconnected):
                await here.send(bytes(1 << 20))

        nursery.start_soon(fill)
        await trio.sleep(1)
        await wires[1].close()


async def test_reading_exactly_keeps_what_came_too_early() -> None:
    async with stream_pair() as (here, there):
        await here.send(b"abcdef")
        await here.close()
        assert await there.read_exactly(2) == b"ab"
        assert await there.receive(3) == b"cde"
        assert await there.receive() == b"f"
        with pytest.raises(Disconnected):
            await there.read_exactly(1)


async def test_a_cancelled_task_still_tells_the_peer_of_the_end() -> None:
    for end in ("close", "reset"):
        async with stream_pair() as (here, there):
            with trio.CancelScope() as scope:
                scope.cancel()
                await getattr(here, end)()
            await wait_all_tasks_blocked()
            if end == "close":
                assert await there.receive() == b""
            else:
                with pytest.raises(Disconnected):
                    await there.receive()
