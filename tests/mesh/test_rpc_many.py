"""Many messages at once over a channel."""

from __future__ import annotations

import pytest
import trio

from mesh.host.wire.loopback import loopback_pair
from mesh.rpc import ByteReader
from protocols import limits
from protocols.errors import Disconnected, Malformed, Oversized
from protocols.liveness import Ping
from tests.mesh.channels import HELLO, PEER, feed, frame, ping_channel
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


async def test_many_are_sent_in_one_write_and_received_together() -> None:
    near, far = loopback_pair(PEER)
    sender, receiver = ping_channel(near), ping_channel(far)
    await sender.send_many(Ping(number) for number in range(100))
    assert await receiver.receive_many() == [Ping(number) for number in range(100)]
    await sender.send_many([])
    await sender.send(Ping(7))
    assert await receiver.receive_many() == [Ping(7)]


async def test_a_part_of_a_message_waits_for_the_rest() -> None:
    near, far = loopback_pair(PEER)
    receiver = ping_channel(far)
    body = b"\x92\xa4ping\x07"
    await near.send(HELLO + frame(body) + frame(body)[:5])
    assert await receiver.receive_many() == [Ping(7)]
    with trio.move_on_after(1) as scope:
        await receiver.receive_many()
    assert scope.cancelled_caught
    await near.send(frame(body)[5:])
    assert await receiver.receive_many() == [Ping(7)]
    await near.close()
    with pytest.raises(Disconnected):
        await receiver.receive_many()


async def test_what_stands_before_a_bad_frame_is_received_and_then_the_fault() -> None:
    reader = ByteReader(await feed(frame(b"ok") + frame(b"fine") + (1 << 20).to_bytes(4) + b"..."))
    assert await reader.read_frames(100) == [b"ok", b"fine"]
    with pytest.raises(Oversized):
        await reader.read_frames(100)


async def test_one_of_many_that_does_not_decode_is_the_peers_fault() -> None:
    channel = ping_channel(await feed(HELLO + frame(b"\x92\xa4ping\x07") + frame(b"\xff")))
    with pytest.raises(Malformed) as caught:
        await channel.receive_many()
    assert caught.value.peer == PEER


async def test_a_message_over_the_limit_is_not_sent() -> None:
    near, _ = loopback_pair(PEER)
    channel = ping_channel(near)
    channel._kind = type(channel._kind)("/x", channel._kind.plane, limit_bytes=4)
    with pytest.raises(Oversized):
        await channel.send_many([Ping(limits.KIB)])
