"""Sessions over virtual nodes that begin with the same prompt: what is computed once, and what a lost stage costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from inference.sessions import events as e
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange
from tests.inference.sessions.ring import Ring, RingNode, Run, generate, open_ring, order

LONG = 3 * CHUNK + 20


async def unbroken(wanted: e.Order) -> list[int]:
    async with open_ring(1) as ring:
        return (await generate(ring, wanted)).tokens


def turned(wanted: e.Order, number: int) -> e.Order:
    """The next turn of a chat: the same prompt with something behind it."""
    other = order(number=number, prompt=LONG + 60)
    prompt = (*wanted.prompt, *range(60))
    return replace(other, prompt=prompt, rows_max=len(prompt) + 40)


@pytest.mark.parametrize("size", [1, 3])
async def test_a_second_session_computes_the_rest_of_its_prompt_alone(
    autojump_clock: MockClock, size: int
) -> None:
    first, second = order(prompt=LONG), turned(order(prompt=LONG), 2)
    async with open_ring(size, row_ms=1.0) as ring:
        cold = await generate(ring, first)
        run = await generate(ring, second)
        assert run.gaps_s[0] < cold.gaps_s[0] / 2  # 80 rows in place of 404
        await trio.sleep(2)
        assert ring.is_clean
        assert all(node.worker.memory().prefix_bytes for node in ring.nodes)
    assert run.tokens == await unbroken(second)


async def test_another_entry_computes_the_whole_prompt(autojump_clock: MockClock) -> None:
    wanted = order(prompt=LONG)
    async with open_ring(3, row_ms=1.0) as ring:
        own = await generate(ring, wanted)
        ring.entry = ring.nodes[1]
        other = await generate(ring, replace(wanted, session=order(number=2).session))
    assert other.tokens == own.tokens
    assert other.gaps_s[0] == pytest.approx(own.gaps_s[0], rel=0.2)


async def test_an_order_that_shares_no_prefix_leaves_nothing(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        await generate(ring, replace(order(prompt=LONG), shares_prefix=False))
        assert not any(node.worker.memory().prefix_bytes for node in ring.nodes)


async def test_stages_that_kept_different_rows_begin_at_the_fewest(autojump_clock: MockClock) -> None:
    wanted = order(prompt=LONG)
    async with open_ring(3) as ring:
        await generate(ring, wanted)
        await ring.nodes[1].worker.drop_prefixes()
        run = await generate(ring, turned(wanted, 2))
        # What it had lost it has again.
        assert ring.nodes[1].worker.memory().prefix_bytes
    assert run.tokens == await unbroken(turned(wanted, 2))


async def warmed(ring: Ring, wanted: e.Order, *, standby: RingNode | None = None) -> None:
    """A session has gone over the ring, and one over the standby of `ranges[1]` where it is to have the same rows."""
    await generate(ring, wanted)
    if standby is not None:
        claims = ring.claims()
        claims[1] = standby.claim(ring.ranges[1])
        other = replace(wanted, session=order(number=7).session)
        async with ring.entry.entry.generate(other, claims, ring.replace) as happenings:
            async for _ in happenings:
                pass


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("at", [1, 30])
async def test_a_stage_that_is_lost_after_rows_were_taken_over_costs_no_token(
    autojump_clock: MockClock, index: int, at: int
) -> None:
    wanted = order(prompt=LONG)
    async with open_ring(3) as ring:
        await warmed(ring, wanted)
        run = await generate(ring, turned(wanted, 2), {at: lambda: ring.kill(ring.nodes[index])})
    assert run.error is None
    assert run.tokens == await unbroken(turned(wanted, 2))
    # The standby has none of them, and no journal has: all rows are computed again.
    assert [recovery.replayed_rows for recovery in run.recoveries] == [LONG + 60 + at - 1]


async def test_a_standby_that_kept_the_same_rows_is_rebuilt_from_the_journal(
    autojump_clock: MockClock,
) -> None:
    wanted = order(prompt=LONG)
    async with open_ring(3) as ring:
        await warmed(ring, wanted, standby=ring.nodes[2])
        run = await generate(ring, turned(wanted, 2), {10: lambda: ring.kill(ring.nodes[1])})
        (recovery,) = run.recoveries
        assert recovery.rebuilt_on == ring.nodes[2].peer
        assert recovery.replayed_rows == LONG + 60 + 10 - 1 - 3 * CHUNK
    assert run.tokens == await unbroken(turned(wanted, 2))


async def test_a_stage_lost_in_the_middle_of_the_prompt_costs_no_token(autojump_clock: MockClock) -> None:
    wanted = order(prompt=LONG)
    results: list[Run] = []
    async with open_ring(3, row_ms=1.0) as ring, trio.open_nursery() as nursery:
        await warmed(ring, wanted)

        async def again() -> None:
            results.append(await generate(ring, turned(wanted, 2)))

        nursery.start_soon(again)
        await trio.sleep(0.1)
        ring.kill(ring.nodes[1])
    assert results[0].tokens == await unbroken(turned(wanted, 2))
    assert results[0].recoveries


async def test_a_first_stage_elsewhere_is_fed_what_it_has_not(autojump_clock: MockClock) -> None:
    wanted = order(prompt=LONG)
    async with open_ring(3, entry=2) as ring:
        await generate(ring, wanted)
        run = await generate(ring, turned(wanted, 2), {12: lambda: ring.kill(ring.nodes[0])})
    assert run.tokens == await unbroken(turned(wanted, 2))
    assert run.recoveries[0].range == LayerRange(0, 3)
