"""Sessions over virtual nodes: every token exactly once, whatever happens to the stages."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from inference.sessions import events as e
from inference.sessions.entry import STRETCH_TOKENS
from protocols import limits
from protocols.errors import NoRoute
from protocols.observations import Outcome
from protocols.session import Sampling
from tests.inference.sessions.ring import generate, open_ring, order


async def unbroken(wanted: e.Order) -> list[int]:
    """The tokens of one node that holds all layers."""
    async with open_ring(1) as ring:
        run = await generate(ring, wanted)
    assert run.reason == "length"
    return run.tokens


@pytest.mark.parametrize("size", [1, 2, 3, 5])
async def test_a_ring_of_any_size_says_what_one_node_says(autojump_clock: MockClock, size: int) -> None:
    async with open_ring(size) as ring:
        run = await generate(ring, order())
    assert run.tokens == await unbroken(order())
    assert run.positions == list(range(20, 60))
    assert run.reason == "length"


async def test_a_prompt_longer_than_a_chunk_and_all_credits_arrives_whole(autojump_clock: MockClock) -> None:
    wanted = order(tokens=5, prompt=limits.PREFILL_CHUNK_ROWS * (limits.CREDITS_PER_SESSION + 3) + 17)
    async with open_ring(3) as ring:
        run = await generate(ring, wanted)
    assert run.tokens == await unbroken(wanted)


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("at", [1, 2, 17, 39])
@pytest.mark.parametrize("is_exact", [True, False])
async def test_a_killed_stage_costs_no_token(
    autojump_clock: MockClock, index: int, at: int, *, is_exact: bool
) -> None:
    sampling = Sampling(temperature=1.0, seed=99)
    async with open_ring(3, is_exact=is_exact) as ring:
        faults: dict[int, object] = {at: lambda: ring.kill(ring.nodes[index])}
        run = await generate(ring, order(sampling=sampling), faults)
    assert run.error is None
    assert run.tokens == await unbroken(order(sampling=sampling))
    assert [recovery.lost for recovery in run.recoveries] == [ring.nodes[index].peer]
    assert max(run.gaps_s) < 3.0


async def test_only_the_lost_range_is_replayed(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        run = await generate(ring, order(), {10: lambda: ring.kill(ring.nodes[1])})
        (recovery,) = run.recoveries
        assert recovery.rebuilt_on == ring.nodes[2].peer
        assert recovery.range == ring.ranges[1]
        assert recovery.replayed_rows == 20 + 10 - 1


async def test_a_first_stage_elsewhere_is_rebuilt_from_tokens_alone(autojump_clock: MockClock) -> None:
    async with open_ring(3, entry=2) as ring:
        run = await generate(ring, order(), {12: lambda: ring.kill(ring.nodes[0])})
    assert run.tokens == await unbroken(order())
    assert run.recoveries[0].range == ring.ranges[0]


async def test_two_stages_lost_one_after_the_other_cost_no_token(autojump_clock: MockClock) -> None:
    async with open_ring(5) as ring:
        faults: dict[int, object] = {
            8: lambda: ring.kill(ring.nodes[2]),
            20: lambda: ring.kill(ring.nodes[4]),
        }
        run = await generate(ring, order(), faults)
    assert run.error is None
    assert run.tokens == await unbroken(order())
    assert len(run.recoveries) == 2


async def test_two_neighbouring_stages_lost_at_once_cost_no_token(autojump_clock: MockClock) -> None:
    def both() -> None:
        ring.kill(ring.nodes[2])
        ring.kill(ring.nodes[4])

    async with open_ring(6) as ring:
        run = await generate(ring, order(), {8: both})
    assert run.error is None
    assert run.tokens == await unbroken(order())


async def test_a_silent_stage_is_given_up_within_seconds(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        run = await generate(ring, order(), {10: lambda: ring.world.silence(ring.nodes[1].peer)})
    assert run.tokens == await unbroken(order())
    assert 1.0 <= max(run.gaps_s) < 3.0


async def test_a_worker_that_hangs_is_given_up_and_one_that_crashes_at_once(
    autojump_clock: MockClock,
) -> None:
    async with open_ring(3) as ring:
        run = await generate(ring, order(), {10: ring.nodes[1].worker.hang})
    assert run.tokens == await unbroken(order())
    assert 1.0 <= max(run.gaps_s) < 3.0
    async with open_ring(3) as ring:
        run = await generate(ring, order(), {10: ring.nodes[2].worker.crash})
    assert run.tokens == await unbroken(order())
    assert max(run.gaps_s) < 1.0


async def test_without_a_standby_the_request_ends_with_a_sentence_and_the_node_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with open_ring(3, standbys=False) as ring:
        run = await generate(ring, order(), {10: lambda: ring.kill(ring.nodes[1])})
        assert isinstance(run.error, NoRoute)
        assert "no standby is left for layers 3-5" in str(run.error)
        assert run.tokens == (await unbroken(order()))[: len(run.tokens)]
        await trio.sleep(3)
        assert not ring.nodes[0].server.sessions
        assert not ring.nodes[0].entry.running


async def test_leaving_early_frees_everything_on_every_hop(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        async with ring.nodes[0].entry.generate(order(), ring.claims(), ring.replace) as happenings:
            async for event in happenings:
                if isinstance(event, e.Emit) and event.position == 30:
                    break
        await trio.sleep(2)
        assert ring.is_clean


async def test_a_finished_session_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        await generate(ring, order())
        await trio.sleep(2)
        assert ring.is_clean


async def test_an_entry_that_dies_frees_its_sessions_elsewhere(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring, trio.open_nursery() as nursery:
        nursery.start_soon(generate, ring, order(tokens=4000))
        await trio.sleep(1)
        assert ring.nodes[1].server.sessions
        ring.kill(ring.nodes[0])
        await trio.sleep(2)
        assert not ring.nodes[1].server.sessions
        assert not ring.nodes[2].server.sessions
        nursery.cancel_scope.cancel()


async def test_sessions_side_by_side_do_not_mix(autojump_clock: MockClock) -> None:
    results: dict[int, list[int]] = {}

    async def one(number: int) -> None:
        sampling = Sampling(temperature=1.0, seed=number)
        run = await generate(ring, order(sampling=sampling, number=number))
        results[number] = run.tokens

    async with open_ring(3) as ring, trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(one, number)
    for number, tokens in results.items():
        assert tokens == await unbroken(order(sampling=Sampling(temperature=1.0, seed=number)))


async def test_every_stage_of_a_good_session_is_seen_to_have_served(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        await generate(ring, order(tokens=2 * STRETCH_TOKENS + 5))
        seen = [(peer, outcome) for peer, outcome, _ in ring.entry.seen]
        assert seen == 3 * [(node.peer, Outcome.SERVED) for node in ring.nodes]
        assert ring.entry.seen[-1][2].endswith(" 5 tokens")


async def test_a_stage_that_breaks_off_is_seen_and_the_stretch_before_counts_for_nobody(
    autojump_clock: MockClock,
) -> None:
    async with open_ring(3) as ring:
        lost, kept = ring.nodes[1].peer, (ring.nodes[0].peer, ring.nodes[2].peer)
        run = await generate(ring, order(tokens=40), {10: lambda: ring.kill(ring.nodes[1])})
        assert run.error is None
        seen = [(peer, outcome) for peer, outcome, _ in ring.entry.seen]
        assert seen[0] in {(lost, Outcome.FAILED), (lost, Outcome.DISPUTED)}
        assert [peer for peer, outcome in seen if outcome is Outcome.SERVED] == list(kept)
        assert "of model abababab: " in ring.entry.seen[0][2]
