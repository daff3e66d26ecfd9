"""Channels: the Hello, the frames, the ends, and bytes that no honest peer sends."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio

from mesh.host.wire.loopback import loopback_pair
from mesh.rpc import ByteReader, Channel, accepting, ask, deadline, dial
from protocols import limits, streams
from protocols.errors import Disconnected, Malformed, Oversized, RemoteFault, TimedOut, Unauthenticated
from protocols.frame import PREFIX, encode_frame
from protocols.hello import MAJOR, MINOR
from protocols.ids import NetworkId
from protocols.liveness import WATCH_CODEC, Ping, Pong, WatchMessage
from protocols.membership import MEMBERS_CODEC, Renew
from protocols.seams import Network
from simulations.network.internet import NETWORK_ID, VirtualWorld
from tests.contracts.talk import members
from tests.mesh.channels import HELLO, PEER, echo_pings, feed, frame, ping_channel
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


async def test_a_question_costs_one_round_trip_hello_included() -> None:
    world = VirtualWorld(latency_s=0.1)
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.PING, accepting(streams.PING, WATCH_CODEC, NETWORK_ID, echo_pings))
        async with dial(one, two.peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
            start = trio.current_time()
            assert await ask(channel, Ping(7), Pong) == Pong(7)
            assert trio.current_time() - start == pytest.approx(0.2)
            assert channel.peer == two.peer


Serve = Callable[[Channel[WatchMessage]], Awaitable[None]]


async def serve_one(serve: Serve, use: Callable[[Network, Network], Awaitable[None]]) -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.PING, accepting(streams.PING, WATCH_CODEC, NETWORK_ID, serve))
        await use(one, two)


async def test_leaving_a_channel_closes_it_and_failing_resets_it() -> None:
    ends: list[str] = []

    async def note_the_end(channel: Channel[WatchMessage]) -> None:
        try:
            while await channel.stream.receive():
                pass
        except Disconnected:
            ends.append("reset")
        else:
            ends.append("closed")

    async def leave(one: Network, two: Network) -> None:
        async with dial(one, two.peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
            await channel.send(Ping(1))

    async def fail(one: Network, two: Network) -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with dial(one, two.peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
                await channel.send(Ping(1))
                await trio.sleep(1)
                raise ZeroDivisionError

    async def both(one: Network, two: Network) -> None:
        for way in (leave, fail):
            await way(one, two)
            await trio.sleep(1)

    await serve_one(note_the_end, both)
    assert ends == ["closed", "reset"]


async def test_a_dialler_that_says_nothing_is_dropped_in_time() -> None:
    async def never(channel: Channel[WatchMessage]) -> None:
        pytest.fail("served without a Hello")

    async def say_nothing(one: Network, two: Network) -> None:
        stream = await one.open_stream(two.peer, streams.PING)
        start = trio.current_time()
        with pytest.raises(Disconnected):
            await stream.receive()
        assert trio.current_time() - start == pytest.approx(limits.HELLO_S, abs=0.1)

    await serve_one(never, say_nothing)


async def test_a_question_that_nobody_answers_times_out() -> None:
    async def wait(channel: Channel[WatchMessage]) -> None:
        await trio.sleep_forever()

    async def ask_in_vain(one: Network, two: Network) -> None:
        with pytest.raises(TimedOut, match="no answer"):
            async with dial(one, two.peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
                await ask(channel, Ping(1), Pong, within_s=3.0)

    await serve_one(wait, ask_in_vain)


async def test_an_answer_of_another_type_is_malformed_and_blamed() -> None:
    async def answer_with_a_question(channel: Channel[WatchMessage]) -> None:
        await channel.send(Ping(1))
        await trio.sleep(1)

    async def ask_for_a_pong(one: Network, two: Network) -> None:
        with pytest.raises(Malformed, match="expected Pong, got Ping") as caught:
            async with dial(one, two.peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
                await ask(channel, Ping(1), Pong)
        assert caught.value.peer == two.peer

    await serve_one(answer_with_a_question, ask_for_a_pong)


def hello(major: int = MAJOR, network: str = NETWORK_ID, more: tuple[Any, ...] = ()) -> bytes:
    return frame(msgspec.msgpack.encode((major, MINOR, network, (), *more)))


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (hello(network="f" * 32), Unauthenticated),
        (hello(major=2), Malformed),
        (hello(major=0), Malformed),
        (frame(b""), Malformed),
        (frame(b"\xc1"), Malformed),
        (frame(b"GET / HTTP/1.1\r\n\r\n"), Malformed),
        (frame(msgspec.msgpack.encode({"major": 1})), Malformed),
        (b"GET / HTTP/1.1\r\n\r\n", Oversized),
        (PREFIX.pack(limits.HELLO_BYTES_MAX + 1), Oversized),
        (b"\xff" * 64, Oversized),
        (b"", Disconnected),
        (b"\x00\x00", Disconnected),
        (HELLO[:-1], Disconnected),
    ],
)
async def test_a_bad_hello_is_refused_with_the_right_blame(sent: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        await ping_channel(await feed(sent)).receive()
    if isinstance(caught.value, RemoteFault):
        assert caught.value.peer == PEER


async def test_a_newer_minor_with_more_fields_is_spoken_with() -> None:
    newer = frame(msgspec.msgpack.encode((MAJOR, MINOR + 7, NETWORK_ID, ("gossip",), "later")))
    stream = await feed(newer, frame(WATCH_CODEC.encode(Ping(3))))
    assert await ping_channel(stream).receive() == Ping(3)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (PREFIX.pack(streams.PING.limit_bytes + 1), Oversized),
        (frame(b"\xc1"), Malformed),
        (frame(b""), Malformed),
        (frame(msgspec.msgpack.encode(("ping", "seven"))), Malformed),
        (frame(msgspec.msgpack.encode(("peng", 7))), Malformed),
        (frame(msgspec.msgpack.encode(("ping",))), Malformed),
        (frame(WATCH_CODEC.encode(Ping(1)) + b"\x00"), Malformed),
        (frame(WATCH_CODEC.encode(Ping(1)))[:-1], Disconnected),
        (b"\x00", Disconnected),
        (b"", Disconnected),
    ],
)
async def test_a_bad_message_is_refused_with_the_right_blame(sent: bytes, error: type[Exception]) -> None:
    channel = ping_channel(await feed(HELLO, sent))
    with pytest.raises(error) as caught:
        await channel.receive()
    if isinstance(caught.value, RemoteFault):
        assert caught.value.peer == PEER


async def test_nothing_too_large_is_sent() -> None:
    near, _ = loopback_pair(PEER)
    channel = Channel(near, streams.JOIN, MEMBERS_CODEC, NetworkId("a" * 1_000))
    with pytest.raises(Oversized):
        await channel.send_raw(encode_frame(bytes(limits.JOIN_BYTES_MAX + 1), limits.JOIN_BYTES_MAX))
    await channel.send(Renew())


async def test_messages_of_several_senders_are_not_interleaved() -> None:
    near, far = loopback_pair(PEER)
    sender, receiver = ping_channel(near), ping_channel(far)
    received: list[WatchMessage] = []

    async def send(nonce: int) -> None:
        body = WATCH_CODEC.encode(Ping(nonce))
        await sender.send_raw(PREFIX.pack(len(body)), body[:1], body[1:])

    async with trio.open_nursery() as nursery:
        for nonce in range(40):
            nursery.start_soon(send, nonce)
        received = [await receiver.receive() for _ in range(40)]
    assert sorted(message.nonce for message in received) == list(range(40))


async def test_raw_reads_give_what_is_there_and_exact_ones_what_was_asked_for() -> None:
    reader = ByteReader(await feed(b"abcdef"))
    assert await reader.read_exactly(2) == b"ab"
    assert await reader.read_some(3) == b"cde"
    assert await reader.read_some(3) == b"f"
    with pytest.raises(Disconnected):
        await reader.read_some(1)
    with pytest.raises(Disconnected):
        await reader.read_exactly(1)
    assert await reader.read_exactly(0) == b""


async def test_a_deadline_says_what_it_waited_for_and_leaves_other_errors_alone() -> None:
    with pytest.raises(TimedOut, match="no bread within 2 s"), deadline(2, "no bread"):
        await trio.sleep_forever()
    with pytest.raises(ZeroDivisionError), deadline(2, "no bread"):
        raise ZeroDivisionError
    with trio.move_on_after(1) as outer, deadline(2, "no bread"):
        await trio.sleep_forever()
    assert outer.cancelled_caught
