"""Noise frames over a raw connection."""

from __future__ import annotations

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.peer.id import ID
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.host.wire.framing import (
    FRAME_BYTES_MAX,
    PLAIN_BYTES_MAX,
    STALLED_WRITE_S,
    RawWire,
    SecureConnection,
)
from protocols import limits
from tests.mesh.host.wires import MemoryWire, identity, secured_pair, wire_pair


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


@pytest.mark.parametrize("rekey_frames", [1, 2, 5])
async def test_both_sides_change_their_keys_after_so_many_frames(
    rekey_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REKEY_FRAMES", rekey_frames)
    here, there = await secured_pair()
    for number in range(12):
        message = bytes([number]) * (PLAIN_BYTES_MAX + number)  # two frames
        await here.write(message)
        assert await there.read(len(message)) == message
        await there.write(b"one")
        assert await here.read(3) == b"one"


def keyed(wire: RawWire) -> SecureConnection:
    one, two = identity(1), identity(2)
    return SecureConnection(
        wire,
        key_out=bytes(32),
        key_in=bytes(32),
        local_key=create_new_key_pair(one.signing_seed).private_key,
        remote=ID.from_base58(two.peer),
        remote_static=X25519PublicKey.from_bytes(two.static),
    )


async def test_frames_that_came_with_the_handshake_are_read_without_waiting_for_more() -> None:
    wires = wire_pair()
    here, there = RawWire(wires[0]), RawWire(wires[1])
    (there.pending[:],) = await held_frames(keyed(here), wires[0], b"early")
    assert await keyed(there).read(5) == b"early"


async def test_what_was_sent_in_several_parts_arrives_as_one() -> None:
    here, there = await secured_pair()
    here.send_now((b"ab", bytearray(b"cd"), memoryview(bytes(70_000))))
    assert here.is_blocked
    await here.flush()
    assert await there.receive() == [b"ab", b"cd", bytes(PLAIN_BYTES_MAX), bytes(70_000 - PLAIN_BYTES_MAX)]


async def test_closing_is_told_once() -> None:
    here, _ = await secured_pair()
    told: list[int] = []
    here.on_closed = lambda: told.append(1)
    await here.close()
    here.give_up()
    await here.close()
    assert told == [1]
