"""Noticing silence: the machine as data, the driver on virtual time."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.members.liveness import LATE_S, Alarm, Answered, GiveUp, Liveness, SendPing, answer_pings, watch
from mesh.rpc import Channel, accepting
from protocols import limits, streams
from protocols.errors import Disconnected, Malformed, TimedOut
from protocols.membership import PING_CODEC, Ping, PingMessage, Pong
from simulations.network import NETWORK_ID, VirtualWorld
from tests.contracts.talk import members

INTERVAL_S, TIMEOUT_S = limits.PING_INTERVAL_S, limits.PING_TIMEOUT_S


def test_a_peer_that_answers_is_pinged_at_the_interval() -> None:
    machine = Liveness()
    assert machine.handle(Alarm(), 100.0) == [SendPing(1)]
    assert machine.deadline == 100.0 + TIMEOUT_S
    assert machine.handle(Answered(1), 100.03) == []
    assert machine.rtt_ms == pytest.approx(30.0)
    assert machine.deadline == 100.0 + INTERVAL_S
    assert machine.handle(Alarm(), 100.5) == []
    assert machine.handle(Alarm(), 101.0) == [SendPing(2)]


def test_a_pong_later_than_the_interval_is_followed_by_a_ping_at_once() -> None:
    machine = Liveness()
    machine.handle(Alarm(), 0.0)
    machine.handle(Answered(1), 1.9)
    assert machine.handle(Alarm(), machine.deadline) == [SendPing(2)]
    assert machine.deadline == 1.9 + TIMEOUT_S


def test_a_peer_that_owes_a_pong_too_long_is_given_up() -> None:
    machine = Liveness()
    machine.handle(Alarm(), 0.0)
    assert machine.handle(Alarm(), TIMEOUT_S) == [GiveUp()]


def test_a_node_that_was_held_up_itself_gives_the_peer_time_to_be_read() -> None:
    machine = Liveness()
    machine.handle(Alarm(), 0.0)
    late = TIMEOUT_S + 10.0
    assert machine.handle(Alarm(), late) == []
    assert machine.handle(Answered(1), late) == []
    machine.handle(Alarm(), machine.deadline)
    assert machine.handle(Alarm(), machine.deadline + 10.0) == []
    assert machine.handle(Alarm(), machine.deadline) == [GiveUp()]


@pytest.mark.parametrize("nonces", [(2,), (0,), (-1,), (1, 1)])
def test_a_pong_that_was_not_asked_for_is_malformed(nonces: tuple[int, ...]) -> None:
    machine = Liveness()
    machine.handle(Alarm(), 0.0)
    *asked_for, not_asked_for = nonces
    for nonce in asked_for:
        machine.handle(Answered(nonce), 0.1)
    with pytest.raises(Malformed):
        machine.handle(Answered(not_asked_for), 0.1)


@given(st.lists(st.floats(0.0, TIMEOUT_S - 0.01), max_size=50), st.floats(0.0, LATE_S))
def test_whoever_answers_in_time_is_never_given_up_and_whoever_stops_always_is(
    delays_s: list[float], late_s: float
) -> None:
    machine, now = Liveness(), 0.0
    for delay_s in delays_s:
        now = max(now, machine.deadline) + late_s
        (output,) = machine.handle(Alarm(), now)
        assert isinstance(output, SendPing)
        now += delay_s
        machine.handle(Answered(output.nonce), now)
    last_heard = now
    for _ in range(2):
        now = max(now, machine.deadline)
        outputs = machine.handle(Alarm(), now)
    assert outputs == [GiveUp()]
    assert now - last_heard <= INTERVAL_S + TIMEOUT_S + 1e-9


async def test_a_watch_lasts_as_long_as_the_peer_answers(autojump_clock: trio.abc.Clock) -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.PING, accepting(streams.PING, PING_CODEC, NETWORK_ID, answer_pings))
        with trio.move_on_after(15.0) as watched:
            await watch(one, two.peer, NETWORK_ID)
        assert watched.cancelled_caught
        world.silence(two.peer)
        with pytest.raises(TimedOut), trio.fail_after(INTERVAL_S + TIMEOUT_S + limits.OPEN_STREAM_S):
            await watch(one, two.peer, NETWORK_ID)


async def test_silence_in_mid_watch_is_noticed_in_three_seconds(autojump_clock: trio.abc.Clock) -> None:
    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two), trio.open_nursery() as nursery:
        two.handle(streams.PING, accepting(streams.PING, PING_CODEC, NETWORK_ID, answer_pings))

        async def silence() -> None:
            await trio.sleep(10.3)
            world.silence(two.peer)

        nursery.start_soon(silence)
        start = trio.current_time()
        with pytest.raises(TimedOut, match="has not answered"):
            await watch(one, two.peer, NETWORK_ID)
        assert 10.3 < trio.current_time() - start <= 10.3 + INTERVAL_S + TIMEOUT_S


@pytest.mark.parametrize("answer", [Pong(99), Ping(1), None])
async def test_a_wrong_answer_ends_the_watch(
    autojump_clock: trio.abc.Clock, answer: PingMessage | None
) -> None:
    async def answer_wrongly(channel: Channel[PingMessage]) -> None:
        await channel.receive()
        if answer is not None:
            await channel.send(answer)
            await trio.sleep(1.0)

    world = VirtualWorld()
    async with members(world.network(), world.network()) as (one, two):
        two.handle(streams.PING, accepting(streams.PING, PING_CODEC, NETWORK_ID, answer_wrongly))
        with pytest.raises(Malformed if answer else Disconnected):
            await watch(one, two.peer, NETWORK_ID)


def test_nothing_is_owed_before_the_first_ping() -> None:
    assert Liveness().deadline == -math.inf
