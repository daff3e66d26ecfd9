"""Noise frames over a raw connection."""

from __future__ import annotations

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.host.framing import FRAME_BYTES_MAX, PLAIN_BYTES_MAX, STALLED_WRITE_S, SecureConnection
from tests.mesh.host.wires import MemoryWire, secured_pair, wire_pair


async def held_frames(here: SecureConnection, wire: MemoryWire, *messages: bytes) -> list[bytes]:
    """The frames of some messages, taken off the wire before they arrive."""
    wire.is_held = True
    frames = []
    for message in messages:
        await here.write(message)
        frames.append(bytes(wire.sent.get_data_nowait()))
    wire.is_held = False
    return frames


async def test_data_of_any_size_arrives() -> None:
    here, there = await secured_pair()
    for size in (1, PLAIN_BYTES_MAX, PLAIN_BYTES_MAX + 1, 300_000):
        message = bytes(i % 251 for i in range(size))
        await here.write(message)
        assert await there.read(size) == message


async def test_frames_are_what_noise_has_on_the_wire() -> None:
    wires = wire_pair()
    here, _ = await secured_pair(wires)
    (sent,) = await held_frames(here, wires[0], bytes(PLAIN_BYTES_MAX + 5))
    first = int.from_bytes(sent[:2], "big")
    assert first == FRAME_BYTES_MAX
    assert int.from_bytes(sent[2 + first : 4 + first], "big") == 5 + 16
    assert len(sent) == 2 + first + 2 + 5 + 16


async def test_a_read_is_exact_though_data_comes_byte_by_byte() -> None:
    wires = wire_pair()
    here, there = await secured_pair(wires)
    wires[1].piece_bytes = 1
    await here.write(bytes(1_000))
    assert await there.read(1_000) == bytes(1_000)


async def test_the_end_inside_a_read_is_an_error_and_not_short_data() -> None:
    here, there = await secured_pair()
    await here.write(b"abc")
    await here.close()
    with pytest.raises(IncompleteReadError) as raised:
        await there.read(4)
    assert not raised.value.is_clean_close
    assert await there.read(3) == b"abc"


@pytest.mark.parametrize("position", [0, 1, 2, 10, -1])
async def test_a_flipped_bit_ends_the_connection(position: int) -> None:
    wires = wire_pair()
    here, there = await secured_pair(wires)
    (frame,) = await held_frames(here, wires[0], b"hello")
    altered = bytearray(frame)
    altered[position] ^= 1
    await wires[0].write(bytes(altered))
    await wires[0].close()
    with pytest.raises((ConnectionClosedError, IncompleteReadError)):
        await there.read(5)


@pytest.mark.parametrize("order", [(1, 0), (0, 0), (1,)])
async def test_frames_in_another_order_or_again_end_the_connection(order: tuple[int, ...]) -> None:
    wires = wire_pair()
    here, there = await secured_pair(wires)
    frames = await held_frames(here, wires[0], b"one", b"two")
    for index in order:
        await wires[0].write(frames[index])
    with pytest.raises(ConnectionClosedError):
        await there.read(6)


async def test_a_cancelled_write_is_finished_so_that_later_frames_can_be_read() -> None:
    wires = wire_pair()
    here, there = await secured_pair(wires)
    wires[0].stalled = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.write, b"first")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        wires[0].stalled.set()
    await here.write(b"second")
    assert await there.read(11) == b"firstsecond"


async def test_a_peer_that_takes_nothing_is_given_up(autojump_clock: MockClock) -> None:
    wires = wire_pair()
    here, _ = await secured_pair(wires)
    wires[0].stalled = trio.Event()
    ended: list[bool] = []
    here.on_closed = lambda: ended.append(True)
    began_s = trio.current_time()
    with pytest.raises(ConnectionClosedError):
        await here.write(b"x")
    assert trio.current_time() - began_s == pytest.approx(STALLED_WRITE_S)
    assert ended == [True]
    with pytest.raises(ConnectionClosedError):
        await here.write(b"x")


async def test_closing_is_told_once() -> None:
    here, _ = await secured_pair()
    told: list[int] = []
    here.on_closed = lambda: told.append(1)
    await here.close()
    here.give_up()
    await here.close()
    assert told == [1]
