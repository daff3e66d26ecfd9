"""The muxer: who is served first, what a slow or a hostile peer can do, and that libp2p's own understands it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.host.connection import Connection
from mesh.host.guard import Guard
from mesh.host.handshake.security import XkOnly
from mesh.host.wire.framing import STALLED_WRITE_S, SecureConnection
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.stream import MuxedStream
from mesh.host.wire.yamux import DATA, GO_AWAY, HEAD, PING, SYN, WINDOW
from protocols import limits
from protocols.errors import Disconnected, Overloaded
from protocols.streams import Plane, Priority
from tests.mesh.host.wires import identity, muxed, muxed_pair, ours, secured_pair, stock, wire_pair, xk

BODY_BYTES = 3 << 20


async def read_all(stream: MuxedStream) -> bytes:
    received = bytearray()
    while data := await stream.receive():
        received += data
    return bytes(received)


# Order -----------------------------------------------------------------------------------------------------------------


async def test_a_decode_frame_waits_for_no_more_than_a_chunk_of_weights(autojump_clock: MockClock) -> None:
    wires = wire_pair()
    arrived: list[str] = []
    async with muxed_pair(wires) as (here, there), trio.open_nursery() as nursery:
        ends = {}
        for name, priority in (
            ("weights", Priority.BULK),
            ("prefill", Priority.NORMAL),
            ("decode", Priority.URGENT),
        ):
            ends[name] = await here.open_stream(priority), await there.accept_stream()

        async def note(name: str) -> None:
            while data := await ends[name][1].receive():
                arrived.extend([name] * (len(data) > 1000))

        for name in ends:
            nursery.start_soon(note, name)
        wires[0].stalled = trio.Event()
        nursery.start_soon(ends["weights"][0].send, bytes(4 * limits.WIRE_CHUNK_BYTES))
        await wait_all_tasks_blocked()
        for name in ("prefill", "decode"):
            nursery.start_soon(ends[name][0].send, bytes(limits.WIRE_CHUNK_BYTES))
            await wait_all_tasks_blocked()
        wires[0].stalled.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    order = [name for at, name in enumerate(arrived) if at == 0 or arrived[at - 1] != name]
    assert order == ["weights", "decode", "prefill", "weights"]
    assert arrived.index("decode") <= 2


async def test_the_memory_of_a_caller_is_its_own_again_when_send_returns_or_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    async with muxed_pair() as (here, there):
        stream, other = await here.open_stream(), await there.accept_stream()
        body = bytearray(b"a" * 100_000)
        await stream.send(body)
        body[:] = b"b" * 100_000
        later = bytearray(b"c" * 1_000_000)
        with trio.move_on_after(1):
            await stream.send(later)
        for each in (body, later):
            each.clear()
        await stream.close()
        received = await read_all(other)
    assert received[:100_000] == b"a" * 100_000
    assert set(received[100_000:]) == {ord("c")}
    assert len(received) < 1_000_000


async def test_an_idle_connection_writes_from_the_callers_own_task() -> None:
    async with tcp_pair(ours, ours) as (here, there):
        near, far = await here.open_stream(), await there.accept_stream()
        await wait_all_tasks_blocked()
        task = trio.lowlevel.current_task()
        turns = task._schedule_points
        await near.send(b"a frame")
        assert task._schedule_points == turns
        assert not here.secured_conn.is_blocked
        assert await far.receive() == b"a frame"


async def test_a_caller_that_never_has_to_wait_still_lets_others_have_a_turn() -> None:
    async with tcp_pair(ours, ours) as (here, there):
        near, _ = await here.open_stream(), await there.accept_stream()
        task = trio.lowlevel.current_task()
        turns = task._schedule_points
        for _ in range(100):
            await near.send(b"x")
        assert task._schedule_points > turns


async def test_a_large_body_lets_others_have_a_turn_though_the_socket_takes_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with tcp_pair(ours, ours) as (here, there), trio.open_nursery() as nursery:
        near, _ = await here.open_stream(), await there.accept_stream()
        monkeypatch.setattr(here.secured_conn._pipe, "send_now", len)
        near._substream.credit_bytes = 64 * limits.WIRE_TURN_BYTES
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(count)
        await near.send(bytes(near._substream.credit_bytes))
        assert turns > 32
        nursery.cancel_scope.cancel()


# Slow readers ------------------------------------------------------------------------------------------------------------


async def test_two_sides_that_send_without_reading_do_not_block_each_other(autojump_clock: MockClock) -> None:
    """Neither side's reader waits for its own writes, so a third stream goes on, and in the end all arrives."""
    async with muxed_pair() as (here, there), trio.open_nursery() as nursery:
        pairs = [(await here.open_stream(), await there.accept_stream()) for _ in range(5)]
        for near, far in pairs[1:]:
            for end in (near, far):
                nursery.start_soon(_send_and_close, end, bytes(BODY_BYTES))
        await trio.sleep(3_600)
        await pairs[0][0].send(b"still here")
        assert await pairs[0][1].receive() == b"still here"
        for near, far in pairs[1:]:
            assert len(await read_all(near)) == BODY_BYTES == len(await read_all(far))


async def _send_and_close(stream: MuxedStream, body: bytes) -> None:
    await stream.send(body)
    await stream.close()


async def test_full_sockets_in_both_directions_drain_again() -> None:
    """The same over real sockets, whose buffers hold a fraction of it."""
    async with tcp_pair(ours, ours, buffer_bytes=65_536) as (here, there), trio.open_nursery() as nursery:
        pairs = [(await here.open_stream(), await there.accept_stream()) for _ in range(3)]
        for near, far in pairs:
            for end in (near, far):
                nursery.start_soon(_send_and_close, end, bytes(BODY_BYTES))
        with trio.fail_after(30):
            for near, far in pairs:
                assert len(await read_all(near)) == BODY_BYTES == len(await read_all(far))


async def test_a_socket_that_takes_nothing_ends_the_connection(autojump_clock: MockClock) -> None:
    wires = wire_pair()
    async with muxed_pair(wires) as (here, _):
        stream = await here.open_stream()
        wires[0].stalled = trio.Event()
        began_s = trio.current_time()
        await stream.send(b"taken, and stuck")
        with pytest.raises(Disconnected):
            await stream.receive()
        assert trio.current_time() - began_s == pytest.approx(STALLED_WRITE_S)
        with pytest.raises(Disconnected):
            await here.open_stream()


async def test_an_unread_stream_keeps_no_more_than_its_window(autojump_clock: MockClock) -> None:
    async with muxed_pair() as (here, there):
        stream, other = await here.open_stream(), await there.accept_stream()
        with trio.move_on_after(60):
            await stream.send(bytes(64 << 20))
        assert other._substream.inbox.size_bytes == limits.STREAM_WINDOW_BYTES


# Streams ---------------------------------------------------------------------------------------------------------------


async def test_streams_are_opened_at_once_and_side_by_side(autojump_clock: MockClock) -> None:
    async with muxed_pair() as (here, there), trio.open_nursery() as nursery:
        opened: list[MuxedStream] = []

        async def open_one(muxer: Muxer, number: int) -> None:
            stream = await muxer.open_stream()
            opened.append(stream)
            await stream.send(bytes([number]))
            assert await stream.receive() == bytes([number])

        async def answer(muxer: Muxer) -> None:
            while True:
                stream = await muxer.accept_stream()
                nursery.start_soon(_echo_one, stream)

        for muxer in (here, there):
            nursery.start_soon(answer, muxer)
        async with trio.open_nursery() as openers:
            for number in range(100):
                openers.start_soon(open_one, (here, there)[number % 2], number)
        assert len({stream._substream.number for stream in opened}) == 100
        nursery.cancel_scope.cancel()


async def _echo_one(stream: MuxedStream) -> None:
    await stream.send(await stream.receive())


async def test_too_many_streams_are_an_error_and_not_a_wait() -> None:
    async with muxed_pair() as (here, _):
        streams = [await here.open_stream() for _ in range(limits.STREAMS_PER_CONNECTION_MAX)]
        with pytest.raises(Overloaded):
            await here.open_stream()
        await streams[0].reset()
        await here.open_stream()


async def test_a_stream_that_was_reset_before_it_was_accepted_is_not_handed_out() -> None:
    async with muxed_pair() as (here, there):
        await (await here.open_stream()).reset()
        second = await here.open_stream()
        await second.send(b"second")
        await wait_all_tasks_blocked()
        assert await (await there.accept_stream()).receive() == b"second"


async def test_closing_the_connection_ends_everything_at_both_ends() -> None:
    async with muxed_pair() as (here, there), trio.open_nursery() as nursery:
        near, far = await here.open_stream(), await there.accept_stream()

        async def expect(error: type[Exception], call: Callable[[], Any]) -> None:
            with pytest.raises(error):
                await call()

        for stream in (near, far):
            nursery.start_soon(expect, Disconnected, stream.receive)
        for muxer in (here, there):
            nursery.start_soon(expect, MuxedConnUnavailable, muxer.accept_stream)
        await wait_all_tasks_blocked()
        await here.close()
        await there.event_closed.wait()
        assert here.is_closed
        assert not here.is_open
        assert not there.is_open


async def test_what_came_before_the_end_of_a_stream_outlives_the_connection() -> None:
    async with muxed_pair() as (here, there):
        near, far = await here.open_stream(), await there.accept_stream()
        await near.send(b"the answer")
        await near.close()
        await wait_all_tasks_blocked()
        await here.close()
        await there.event_closed.wait()
        assert await far.receive() == b"the answer"
        assert await far.receive() == b""


# Hostile peers -----------------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, number: int, length: int = 0) -> bytes:
    return HEAD.pack(0, kind, flags, number, length)


@pytest.mark.parametrize(
    "wire",
    [
        b"\xff" * 12,
        frame(7, 0, 0),
        frame(DATA, 0, 1, 1),
        frame(WINDOW, SYN, 2),
        frame(DATA, SYN, 1, 1 << 31),
        frame(PING, SYN, 0) * 1_000,
        b"".join(frame(WINDOW, SYN, number) for number in range(1, 10_001, 2)),
    ],
)
async def test_a_peer_that_breaks_the_rules_is_told_counted_and_gone(
    wire: bytes, autojump_clock: MockClock
) -> None:
    guard = Guard()
    visitor, secured = await secured_pair()
    muxer = ours(secured, guard)
    with trio.fail_after(60):
        await visitor.write(wire)
        await muxer.start()
    assert guard.faults == {"Malformed": 1}
    assert muxer.is_closed
    said = b"".join([bytes(part) for part in await visitor.receive()])
    assert said[-HEAD.size :] == frame(GO_AWAY, 0, 0, 1)


async def test_an_altered_frame_is_counted_too() -> None:
    guard, wires = Guard(), wire_pair()
    visitor, secured = await secured_pair(wires)
    muxer = ours(secured, guard)
    await wires[0].write(b"\x00\x20" + bytes(32))
    await muxer.start()
    assert sum(guard.faults.values()) == 1
    assert not visitor.is_closed


async def test_a_peer_that_is_leaving_is_let_go_once_its_streams_have_ended() -> None:
    visitor, secured = await secured_pair()
    muxer = ours(secured)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await visitor.write(frame(WINDOW, SYN, 1) + frame(GO_AWAY, 0, 0))
        stream = await muxer.accept_stream()
        assert not muxer.is_open
        assert not Connection(identity(1).peer, Plane.DATA, False, muxer, secured, 0.0).is_alive
        await visitor.write(frame(DATA, 4, 1))
        assert await stream.receive() == b""
        assert not muxer.is_closed
        await stream.send(b"goodbye")
        await stream.close()
        await visitor.write(frame(PING, SYN, 0))
        await muxer.event_closed.wait()


# The stock muxer on the other side ---------------------------------------------------------------------------------------


@asynccontextmanager
async def tcp_pair(
    make_here: Callable[[SecureConnection], Any],
    make_there: Callable[[SecureConnection], Any],
    buffer_bytes: int | None = None,
) -> AsyncIterator[tuple[Any, Any]]:
    """Two running muxers over Noise and TCP on loopback; the first has dialled."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        far = await listener.accept()
    for each in (near, far):
        if buffer_bytes is not None:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                each.socket.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
    one, two = identity(1), identity(2)
    ends: list[Any] = []

    async def dial() -> None:
        raw = RawConnection(TrioTCPStream(near), True)
        ends.append(await XkOnly(xk(one, two)).secure_outbound(raw, ID.from_base58(two.peer)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        accepted = await XkOnly(xk(two)).secure_inbound(RawConnection(TrioTCPStream(far), False))
    muxers = make_here(ends[0]), make_there(accepted)
    async with trio.open_nursery() as nursery:
        for muxer in muxers:
            nursery.start_soon(muxer.start)
        for muxer in muxers:
            await muxer.event_started.wait()
        yield muxers
        for muxer in muxers:
            await muxer.close()
        nursery.cancel_scope.cancel()


async def _read_everything(stream: IMuxedStream) -> int:
    count = 0
    while True:
        try:
            data = await stream.read(65_536)
        except MuxedStreamEOF:
            return count
        if not data:
            return count
        count += len(data)


async def _serve(muxer: IMuxedConn) -> None:
    """Says how much it was sent, and as much again."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(_count_and_repeat, await muxer.accept_stream())


async def _count_and_repeat(stream: IMuxedStream) -> None:
    count = await _read_everything(stream)
    await stream.write(bytes(count))
    await stream.close()


PAIRS = [(ours, stock), (stock, ours), (ours, ours)]


@pytest.mark.parametrize(("make_here", "make_there"), PAIRS)
@pytest.mark.parametrize("is_dialler_the_opener", [True, False])
async def test_megabytes_go_both_ways_to_and_from_libp2ps_own_muxer(
    make_here: Any, make_there: Any, is_dialler_the_opener: bool
) -> None:
    with trio.fail_after(30):
        async with tcp_pair(make_here, make_there) as (here, there), trio.open_nursery() as nursery:
            opener, server = (here, there) if is_dialler_the_opener else (there, here)
            nursery.start_soon(_serve, server)
            async with trio.open_nursery() as askers:
                for size in (0, 1, 70_000, 3_000_000):
                    askers.start_soon(partial(_ask, opener, size))
            nursery.cancel_scope.cancel()


async def _ask(opener: IMuxedConn, size: int) -> None:
    stream = await opener.open_stream()
    for start in range(0, size, 100_000):
        await stream.write(bytes(min(100_000, size - start)))
    await stream.close()
    assert await _read_everything(stream) == size


async def test_a_reset_is_understood_in_both_directions(autojump_clock: MockClock) -> None:
    async with muxed(ours, stock) as (here, there):
        near, far = await here.open_stream(), await there.accept_stream()
        await near.reset()
        with pytest.raises((MuxedStreamReset, MuxedStreamEOF)):  # the latter if it had not begun to read
            await far.read(1)
        theirs = await there.open_stream()
        accepted = await here.accept_stream()
        await theirs.reset()
        with pytest.raises(Disconnected):
            await accepted.receive()


async def test_a_ping_and_a_farewell_of_libp2ps_own_muxer_are_understood(autojump_clock: MockClock) -> None:
    async with muxed(ours, stock) as (here, there):
        assert isinstance(there, StockYamux)
        await there._write_frame(frame(PING, SYN, 0, 5))
        with trio.fail_after(1):
            await there._ping_event.wait()
        await there.close()
        await here.event_closed.wait()


async def test_a_stock_reader_that_pauses_gets_everything_as_well(autojump_clock: MockClock) -> None:
    async with muxed(ours, stock) as (here, there), trio.open_nursery() as nursery:
        near, far = await here.open_stream(), await there.accept_stream()
        nursery.start_soon(_send_and_close, near, bytes(BODY_BYTES))
        await trio.sleep(60)
        assert await _read_everything(far) == BODY_BYTES
