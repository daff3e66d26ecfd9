"""Bytes that no honest peer sends, and moments that no test would pick by hand."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.host.wire.loopback import loopback_pair
from mesh.rpc import Channel
from protocols import streams
from protocols.errors import Disconnected, RemoteFault
from protocols.frame import PREFIX
from protocols.hello import MAJOR, MINOR, Hello
from protocols.ids import PeerId
from protocols.liveness import WATCH_CODEC, Ping, WatchMessage
from protocols.seams import Stream
from simulations.network.internet import NETWORK_ID
from tests.mesh.channels import HELLO, PEER, feed, frame, ping_channel
from tests.protocols.vectors import VECTORS, Vector
from tests.virtual_time import run_on_virtual_time


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_a_receive_that_is_cancelled_anywhere_loses_nothing(pieces: list[int], messages: int) -> None:
    sent = HELLO + b"".join(frame(WATCH_CODEC.encode(Ping(nonce))) for nonce in range(messages))

    async def trickle(stream: Stream) -> None:
        rest = sent
        for size in (*pieces, len(sent)):
            await stream.send(rest[:size])
            rest = rest[size:]
            await trio.sleep(1.0)

    async def run() -> list[WatchMessage]:
        near, far = loopback_pair(PEER)
        channel, received = ping_channel(far), []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, near)
            while len(received) < messages:
                with trio.move_on_after(0.3):
                    received.append(await channel.receive())
        return received

    assert run_on_virtual_time(run) == [Ping(nonce) for nonce in range(messages)]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_damaged_messages_of_every_kind_give_typed_errors_alone(vector: Vector, data: st.DataObject) -> None:
    body = bytearray.fromhex(vector.hex)
    for _ in range(data.draw(st.integers(1, 4))):
        if not body:
            break
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                body[at] = data.draw(st.integers(0, 255))
            case "cut":
                del body[at:]
            case "insert":
                body[at:at] = data.draw(st.binary(max_size=5))

    async def receive() -> PeerId | None:
        stream = await feed(HELLO, frame(bytes(body)))
        try:
            await Channel(stream, streams.PLACEMENT, vector.codec, NETWORK_ID).receive()
        except RemoteFault as fault:
            return fault.peer
        return PEER

    assert trio.run(receive) == PEER


async def receive_all(channel: Channel[WatchMessage]) -> NoReturn:
    while True:
        await channel.receive()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_garbage_instead_of_anything_gives_typed_errors_alone(garbage: bytes) -> None:
    async def receive(*parts: bytes) -> None:
        with pytest.raises((RemoteFault, Disconnected)):
            await receive_all(ping_channel(await feed(*parts)))

    trio.run(receive, garbage)
    trio.run(receive, HELLO, garbage)


def test_the_hello_of_this_release_is_what_channels_send() -> None:
    assert msgspec.msgpack.decode(HELLO[PREFIX.size :], type=Hello) == Hello(MAJOR, MINOR, NETWORK_ID)
