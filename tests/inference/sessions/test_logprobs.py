"""Log-probabilities and other options of draws over a ring: they go with the positions, and no older node passes over them."""

from __future__ import annotations

import msgspec
import pytest
from trio.testing import MockClock

from inference.sessions import events as e
from mesh.rpc import Channel
from protocols import limits, streams
from protocols.errors import Overloaded
from protocols.frame import encode_frame
from protocols.hello import Hello
from protocols.logprobs import Logprobs
from protocols.observations import Outcome
from protocols.seams import Stream
from protocols.session import SESSION_CODEC, Sampling
from simulations.network.internet import NETWORK_ID
from tests.inference.sessions.ring import Ring, RingNode, generate, open_ring, order

SAMPLING = Sampling(temperature=1.0, seed=3, logprobs=4)


async def told(ring: Ring, kill: dict[int, int]) -> list[tuple[int, int, Logprobs | None]]:
    """Position, token and log-probabilities of each event; `kill` a node by number at so many tokens."""
    found = []
    wanted = order(sampling=SAMPLING)
    async with ring.entry.entry.generate(wanted, ring.claims(), ring.replace) as happenings:
        async for event in happenings:
            if isinstance(event, e.Emit):
                found.append((event.position, event.token, event.logprobs))
                if len(found) in kill:
                    ring.kill(ring.nodes[kill[len(found)]])
    return found


@pytest.mark.parametrize("kill", [{7: 1}, {1: 2}, {39: 2}])
async def test_each_position_has_its_logprobs_once_whatever_fails(
    autojump_clock: MockClock, kill: dict[int, int]
) -> None:
    async with open_ring(3) as ring:
        unbroken = await told(ring, {})
    async with open_ring(3) as ring:
        broken = await told(ring, kill)
    assert broken == unbroken
    assert [position for position, *_ in broken] == list(range(20, 60))
    assert all(logprobs and len(logprobs.likeliest) == 4 for *_, logprobs in broken)
    assert len({logprobs for *_, logprobs in broken}) > 30


async def test_none_come_where_none_were_asked_for(autojump_clock: MockClock) -> None:
    async with (
        open_ring(3) as ring,
        ring.entry.entry.generate(order(3), ring.claims(), ring.replace) as events,
    ):
        found = [event async for event in events]
    assert [event.logprobs for event in found if isinstance(event, e.Emit)] == [None] * 3


def make_old(node: RingNode) -> None:
    """As a node that says it speaks the first minor."""

    async def serve(stream: Stream) -> None:
        channel = Channel(stream, streams.SESSION, SESSION_CODEC, NETWORK_ID)
        hello = msgspec.msgpack.encode(Hello(1, 0, NETWORK_ID))
        channel._greeting = encode_frame(hello, limits.HELLO_BYTES_MAX)
        await channel.greet()
        await node.server._serve(channel)

    node.network.handle(streams.SESSION, serve)


@pytest.mark.parametrize("index", [1, 2])
async def test_an_older_node_serves_what_it_understands(autojump_clock: MockClock, index: int) -> None:
    plain = Sampling(0.7, 40, 0.9, 5)
    async with open_ring(3) as ring:
        make_old(ring.nodes[index])
        run = await generate(ring, order(sampling=plain))
        assert (run.reason, run.recoveries) == ("length", [])


@pytest.mark.parametrize(
    "asked",
    [Sampling(presence_penalty=0.1), Sampling(logprobs=0), Sampling(min_p=0.1), Sampling(grammar="{}")],
)
async def test_an_older_last_stage_is_replaced_rather_than_pass_over_an_option(
    autojump_clock: MockClock, asked: Sampling
) -> None:
    async with open_ring(3) as ring:
        make_old(ring.nodes[1])
        make_old(ring.nodes[2])
        run = await generate(ring, order(sampling=asked))
        assert run.error is None
        (recovery,) = run.recoveries
        assert (recovery.lost, recovery.rebuilt_on) == (ring.nodes[2].peer, ring.nodes[0].peer)
        assert "earlier release" in recovery.reason
        outcomes = {outcome for _, outcome, _ in ring.entry.seen}
        assert outcomes == {Outcome.REFUSED, Outcome.SERVED}


async def test_without_a_newer_node_the_session_ends_with_the_reason(autojump_clock: MockClock) -> None:
    async with open_ring(3, standbys=False) as ring:
        make_old(ring.nodes[2])
        run = await generate(ring, order(sampling=SAMPLING))
    assert run.tokens == []
    assert isinstance(run.error, Overloaded)
    assert "earlier release (protocol 1.0)" in str(run.error)
