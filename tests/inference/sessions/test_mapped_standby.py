"""A failover to a standby that is not loaded yet: the entry waits for as long as the load goes on, and no token is lost."""

from __future__ import annotations

import pytest
import trio

from inference.sessions import events as e
from inference.sessions.routing import find_replacement, find_route
from protocols import limits
from protocols.errors import NoRoute, Unavailable
from protocols.ids import PeerId
from protocols.placement import Claim, LayerRange, StandbyKind
from tests.inference.sessions.ring import MODEL, Ring, generate, open_ring, order

A, B, C, D = (PeerId(f"12D3KooW{letter * 44}") for letter in "ABCD")
LOAD_S = 2.4  # 0.8 s for each of a range's three layers: less than a stage may stand still, and more in all


async def unbroken(number: int = 1) -> list[int]:
    async with open_ring(mapped=True) as ring:
        return (await generate(ring, order(number=number))).tokens


async def test_a_mapped_standby_is_loaded_on_the_way_and_no_token_is_lost_or_changed(autojump_clock):
    expected = await unbroken()
    async with open_ring(mapped=True, load_s=LOAD_S) as ring:
        done = await generate(ring, order(), {10: lambda: ring.kill(ring.nodes[1])})
    assert done.tokens == expected
    assert done.positions == list(range(20, 60))
    assert [(each.lost, each.rebuilt_on) for each in done.recoveries] == [
        (ring.nodes[1].peer, ring.nodes[2].peer)
    ]
    assert LOAD_S < max(done.gaps_s) < LOAD_S + 1.5, "the load shows as the pause"


async def test_other_sessions_of_a_node_that_loads_wait_and_stay_with_it(autojump_clock):
    """Their steps stand behind the pieces of the load in the worker; its progress is theirs."""
    expected = await unbroken(2)
    async with open_ring(mapped=True, load_s=LOAD_S) as ring:
        third = ring.nodes[2]
        runs = []

        async def other() -> None:
            runs.append(await generate(ring, order(number=2), {10: start}))

        def start() -> None:
            nursery.start_soon(third.load, MODEL, ring.ranges[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
        assert runs[0].tokens == expected
        assert runs[0].recoveries == [], "nobody gave up a stage that waits for a load"
        assert max(runs[0].gaps_s) > LOAD_S / 4


async def test_several_sessions_wait_for_the_same_standby(autojump_clock):
    async with open_ring(mapped=True, load_s=LOAD_S) as ring:
        runs = {}

        async def one(number: int) -> None:
            faults = {10: lambda: ring.kill(ring.nodes[1])} if number == 1 else {}
            runs[number] = await generate(ring, order(number=number), faults)

        async with trio.open_nursery() as nursery:
            for number in range(1, 4):
                nursery.start_soon(one, number)
        assert [runs[number].reason for number in sorted(runs)] == ["length"] * 3
        assert len({tuple(done.tokens) for done in runs.values()}) == 1


async def test_a_standby_that_cannot_be_loaded_is_refused_with_the_reason(autojump_clock):
    async with open_ring(mapped=True) as ring:

        async def fail(*_: object) -> None:
            raise Unavailable("layers 3-5 could not be loaded: no memory")

        ring.nodes[2].load = fail
        done = await generate(ring, order(), {10: lambda: ring.kill(ring.nodes[1])})
        assert isinstance(done.error, NoRoute)
        assert "no memory" in str(done.error)
        assert "'weft offer'" in str(done.error)
        assert len(done.tokens) == 10
        await trio.sleep(1)
        assert all(not node.server.sessions for node in ring.nodes if node is not ring.nodes[1])


async def test_a_load_that_stands_still_is_given_up(autojump_clock):
    async with open_ring(mapped=True) as ring:

        async def stuck(*_: object) -> None:
            await trio.sleep_forever()

        ring.nodes[2].load = stuck
        began = trio.current_time()
        done = await generate(ring, order(), {10: lambda: ring.kill(ring.nodes[1])})
        assert isinstance(done.error, NoRoute)
        assert trio.current_time() - began < limits.REPLY_S + 3


async def lose_the_middle(ring: Ring, last_resort: e.Replace) -> tuple[list[int], str]:
    tokens, ending = [], ""
    async with ring.entry.entry.generate(order(), ring.claims(), ring.replace, last_resort) as happenings:
        async for event in happenings:
            match event:
                case e.Emit(_, token):
                    tokens.append(token)
                    if len(tokens) == 10:
                        ring.kill(ring.nodes[1])
                case e.Finish(reason):
                    ending = reason
                case e.Fail(error):
                    ending = str(error)
    return tokens, ending


async def test_the_entry_serves_itself_what_nobody_else_holds(autojump_clock):
    expected = await unbroken()
    async with open_ring(standbys=False, load_s=LOAD_S) as ring:
        asked = []

        def adopt(layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
            asked.append((layers, excluded))
            ring.entry.mapped.append(layers)
            return ring.entry.peer

        tokens, ending = await lose_the_middle(ring, adopt)
    assert (tokens, ending) == (expected, "length")
    assert asked == [(ring.ranges[1], frozenset({ring.nodes[1].peer}))]


async def test_without_any_resort_the_range_is_named(autojump_clock):
    async with open_ring(standbys=False) as ring:
        tokens, ending = await lose_the_middle(ring, lambda _layers, _excluded: None)
    assert len(tokens) == 10
    assert "layers 3-5" in ending


# Routing -------------------------------------------------------------------------------------------------------------


def a_claim(holder, kind=None, start=0, end=4, ms=1.0):
    is_standby = kind is not None
    return Claim(
        holder, MODEL, LayerRange(start, end), is_standby, "f32", "exact", "here", ms, 1,
        kind=kind or StandbyKind.HOT,
    )  # fmt: skip


@pytest.mark.parametrize("gone", range(3))
def test_a_route_takes_primaries_then_hot_then_mapped_standbys_whatever_they_cost(gone):
    ranked = [
        a_claim(A, ms=9.0),
        a_claim(B, StandbyKind.HOT, ms=5.0),
        a_claim(C, StandbyKind.MAPPED, ms=2.0),
        a_claim(D, StandbyKind.COLD, ms=0.1),
    ]
    assert find_route(ranked[gone:], MODEL, 4, D).stages == (ranked[gone],)


def test_a_chain_of_hot_standbys_is_better_than_one_mapped_one():
    hot = [a_claim(B, StandbyKind.HOT, start, start + 1) for start in range(4)]
    assert find_route([*hot, a_claim(C, StandbyKind.MAPPED)], MODEL, 4, A).stages == tuple(hot)


def test_a_lost_range_goes_to_one_that_is_loaded_before_a_quicker_mapped_one():
    hot, mapped = a_claim(B, StandbyKind.HOT, ms=9.0), a_claim(C, StandbyKind.MAPPED, ms=1.0)
    assert find_replacement([mapped, hot], a_claim(A)) == hot
    assert find_replacement([mapped, hot], a_claim(A), {B}) == mapped
