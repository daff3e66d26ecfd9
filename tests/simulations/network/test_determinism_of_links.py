"""Order and repeatability: a connection keeps its order on any link, and a seed decides everything."""

from __future__ import annotations

import gc
from typing import Any

import hypothesis.strategies as some
import trio
from hypothesis import given, settings

from protocols import streams
from simulations.network.connection import End
from simulations.network.internet import VirtualWorld
from simulations.network.lane import Lane
from simulations.network.links import Link
from simulations.network.stream import VirtualStream
from simulations.network.wire import Wire
from tests.contracts.talk import echo, exchange
from tests.simulations.network.talking import pair
from tests.virtual_time import ON_VIRTUAL_TIME, run_on_virtual_time

LINKS = some.builds(
    Link,
    some.floats(0, 0.3),
    some.floats(0, 0.3),
    some.sampled_from([float("inf"), 1e6, 3e4]),
    some.sampled_from([0.0, 0.05, 0.5]),
)
DEEDS = some.lists(
    some.one_of(
        LINKS,
        some.sampled_from(["send", "send", "cut", "mend", "silence", "heal", "pause", "resume"]),
        some.floats(0, 2),
    ),
    max_size=40,
)


async def disturb(seed: int, deeds: list[Any]) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """What was sent, what was heard, and the trace."""
    trace: list[bytes] = []
    sent: list[bytes] = []
    world = VirtualWorld(seed=seed, trace=trace.append)
    async with pair(world) as made:
        stream = await made.open()
        one, two = made.one.peer, made.two.peer
        for number, deed in enumerate(deeds):
            match deed:
                case Link():
                    world.links.set(one, two, deed)
                case float() | int():
                    await trio.sleep(deed)
                case "send":
                    sent.append(f"{number:05}".encode() * 200)
                    await stream.send(sent[-1])
                case "cut":
                    world.cut_one_way(one, two)
                case "mend":
                    world.mend(one, two)
                case "heal":
                    world.heal()
                case _:
                    getattr(world, deed)(two)
        world.heal()
        world.resume(two)
        await trio.sleep(10_000)
        return sent, [data for _, data in made.heard], trace


@settings(max_examples=60, deadline=None)
@given(DEEDS, some.integers(0, 5))
def test_whatever_happens_to_a_link_nothing_is_lost_or_overtaken(deeds: list[Any], seed: int) -> None:
    async def run() -> None:
        sent, heard, _ = await disturb(seed, deeds)
        assert b"".join(heard) == b"".join(sent)

    run_on_virtual_time(run)


def trace_of(seed: int) -> list[bytes]:
    deeds = [Link(0.1, 0.2, 1e6, 0.2), *["send", 0.3] * 8, "cut", "send", 5, "mend"]
    result: list[bytes] = []

    async def run() -> None:
        result.extend((await disturb(seed, deeds))[2])

    run_on_virtual_time(run)
    return result


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    trace = trace_of(1)
    assert trace_of(1) == trace
    assert trace_of(2) != trace
    assert any(b" data 1000 " in line for line in trace)
    assert any(b" open /weft/" in line for line in trace)
    assert any(b" cut " in line for line in trace)


@ON_VIRTUAL_TIME
async def test_bytes_that_differ_leave_another_trace() -> None:
    traces: list[list[bytes]] = []
    for message in (b"abc", b"abd"):
        traces.append([])
        async with pair(VirtualWorld(trace=traces[-1].append)) as made:
            await (await made.open()).send(message)
            await trio.sleep(1)
    one, two = ([line for line in trace if b" data " in line] for trace in traces)
    assert len(one) == len(two) == 1
    assert one != two


@ON_VIRTUAL_TIME
async def test_streams_and_connections_that_have_ended_leave_nothing_behind() -> None:
    async with pair(VirtualWorld()) as made:
        made.two.handle(streams.MEMBERS, echo)
        counts = []
        for number in range(60):
            for _ in range(3):
                assert await exchange(made.one, made.two, streams.MEMBERS, b"hi") == b"hi"
            match number % 3:
                case 0:
                    await made.one.disconnect(made.two.peer)
                case 1:
                    made.world.reset(made.one.peer, made.two.peer)
                case _:
                    made.world.silence(made.two.peer)
                    await made.one.disconnect(made.two.peer)
                    await made.two.disconnect(made.one.peer)
                    made.world.heal()
            await trio.sleep(40)
            if number in (2, 59):  # after one of each, and after many
                counts.append(count_kept())
        assert counts[0] == counts[-1]
        assert not made.one.connections()


def count_kept() -> int:
    gc.collect()
    # Not isinstance, which asks strangers such as the proxies of other libraries for their class.
    return sum(type(each) in (Wire, End, VirtualStream, Lane) for each in gc.get_objects())
