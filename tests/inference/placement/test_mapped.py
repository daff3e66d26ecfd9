"""Standbys that are mapped: no memory until a session needs them, then loaded once, and mapped again when their holder is back."""

from __future__ import annotations

import pytest
import trio

from inference.placement.holding.holder import GIVE_BACK_S
from inference.placement.planning.plan import Goal, StandbyPolicy
from protocols.errors import Disconnected, Unavailable
from protocols.ids import ModelDigest
from protocols.placement import Offer, Release, StandbyKind
from simulations.machine.arithmetic import LAYER_BYTES
from tests.inference.placement.mesh_of_nodes import MODEL, mesh_of, model_to_offer
from tests.inference.placement.test_driver import eventually, kinds, talk, unheard

MAPPED = Goal(standby=StandbyPolicy.MAPPED)


def layers_loaded(node):
    return (node.worker.memory_bytes - node.worker.free_bytes()) // LAYER_BYTES


def standby_of(node):
    (holding,) = [each for each in node.placement.own_shards() if each.claim.standby]
    return holding


async def test_mapped_standbys_are_on_disk_and_take_no_memory(autojump_clock):
    async with mesh_of(3) as (_, nodes):
        events = []
        plan = await nodes[0].placement.offer(model_to_offer(), events.append, goal=MAPPED)
        assert {standby.kind for standby in plan.standbys()} == {StandbyKind.MAPPED}
        assert sum(map(layers_loaded, nodes)) == 8
        assert "mapping" in {event["phase"] for event in kinds(events, "progress")}
        config = model_to_offer().config
        for node in nodes:
            claim = standby_of(node).claim
            assert claim.kind is StandbyKind.MAPPED
            assert set(config.tensor_names(claim.range)) <= node.weights.tensors
            assert node.placement.held(MODEL, claim.range) is None
            told = [each for each in nodes[0].placement.claims.claims() if each.standby]
            assert {each.numerics_class for each in told} == {"virtual"}, "as this worker's primary computes"


async def test_a_mapped_standby_is_loaded_once_for_all_that_wait_and_claimed_as_hot(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        layers = standby_of(b).claim.range
        before, work = layers_loaded(b), b.placement.load_work()
        assert b.placement.can_load(MODEL, layers, a.peer)
        with trio.move_on_after(0.01):
            await b.placement.load(MODEL, layers)  # one that leaves does not stop it
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(b.placement.load, MODEL, layers)
        assert b.placement.held(MODEL, layers) is not None
        assert layers_loaded(b) == before + layers.layers
        assert b.placement.load_work() > work
        await eventually(lambda: standby_of(b).claim in a.placement.claims.claims(MODEL))
        assert standby_of(b).claim.kind is StandbyKind.HOT
        assert standby_of(b).claim.standby


async def test_a_promoted_standby_is_mapped_again_when_its_holder_serves_and_no_session_is_left(
    autojump_clock,
):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        held = standby_of(b)
        busy, before = trio.Event(), layers_loaded(b)

        async def drained(_shard):
            await busy.wait()

        b.placement.unload_after(drained)
        await b.placement.load(MODEL, held.claim.range)
        await trio.sleep(3 * GIVE_BACK_S)
        assert standby_of(b).is_loaded, "a session is on it"
        busy.set()
        await trio.sleep(2 * GIVE_BACK_S)
        assert standby_of(b).claim.kind is StandbyKind.MAPPED
        assert layers_loaded(b) == before


async def test_a_promotion_that_does_not_fit_is_refused_with_the_reason_and_stays_mapped(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        b.worker.memory_bytes = b.worker.memory_bytes - b.worker.free_bytes() + 10
        layers = standby_of(b).claim.range
        with pytest.raises(Unavailable, match=f"layers {layers} could not be loaded: .* bytes do not fit"):
            await b.placement.load(MODEL, layers)
        assert not standby_of(b).is_loaded
        assert not b.placement.can_load(ModelDigest("cd" * 32), layers, b.peer)


async def test_a_worker_that_dies_during_a_promotion_leaves_the_range_mapped(autojump_clock):
    async with mesh_of(3, load_s=2.0) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        layers = standby_of(b).claim.range
        async with trio.open_nursery() as nursery:

            async def expect_refusal():
                with pytest.raises(Unavailable, match="the worker ended"):
                    await b.placement.load(MODEL, layers)

            nursery.start_soon(expect_refusal)
            await trio.sleep(1)
            b.worker.crash()
        assert not standby_of(b).is_loaded, "what lies on disk outlives the worker"
        await eventually(lambda: len(b.held()) == 2)
        await b.placement.load(MODEL, layers)
        assert standby_of(b).is_loaded


async def test_a_mapped_standby_comes_back_mapped_after_a_restart(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        await b.placement.load(MODEL, standby_of(b).claim.range)
        before = b.held()
        b.kill()
        await trio.sleep(1)
        await b.restart()
        await eventually(lambda: b.held() == before)
        assert standby_of(b).claim.kind is StandbyKind.MAPPED


async def test_offered_hot_a_mapped_standby_is_loaded_and_offered_mapped_it_is_let_go_of(autojump_clock):
    async with mesh_of(3) as (_, nodes):
        a = nodes[0]
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        await a.placement.offer(model_to_offer(), unheard, goal=Goal(standby=StandbyPolicy.HOT))
        assert sum(map(layers_loaded, nodes)) == 16
        await a.placement.offer(model_to_offer(), unheard, goal=MAPPED)
        await eventually(lambda: sum(map(layers_loaded, nodes)) == 8)
        assert {standby_of(node).claim.kind for node in nodes} == {StandbyKind.MAPPED}


async def test_for_want_of_memory_an_unused_standby_moves_to_disk_and_a_primary_never(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=Goal(standby=StandbyPolicy.HOT))
        held, before, busy = standby_of(b), layers_loaded(b), trio.Event()

        async def drained(_shard):
            await busy.wait()

        b.placement.unload_after(drained)
        assert await b.placement.shed() is None, "a session is on it"
        busy.set()
        assert (await b.placement.shed()).range == held.claim.range
        assert layers_loaded(b) == before - held.claim.range.layers
        assert await b.placement.shed() is None
        await eventually(lambda: standby_of(b).claim in a.placement.claims.claims(MODEL))
        assert standby_of(b).claim.kind is StandbyKind.MAPPED
        await b.placement.load(MODEL, held.claim.range)
        assert standby_of(b).is_loaded, "it serves when it is needed"
        b.kill()
        await trio.sleep(1)
        await b.restart()
        await eventually(lambda: len(b.held()) == 2)
        assert standby_of(b).claim.kind is StandbyKind.MAPPED


async def test_a_primary_that_a_failed_plan_had_mapped_is_loaded_again(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard, goal=Goal(standby=StandbyPolicy.NONE))
        (before,) = [each.claim for each in b.placement.own_shards()]
        held = b.held()
        async with talk(a, b) as channel:
            await channel.send(
                Offer(
                    9, a.peer, MODEL, before.range, True, before.dtype, before.numerics, 1 << 20, 60.0,
                    (a.peer,), StandbyKind.MAPPED,
                )
            )  # fmt: skip
            await eventually(
                lambda: [each.claim.kind for each in b.placement.own_shards()] == [StandbyKind.MAPPED]
            )
        async with talk(a, b) as channel:
            await channel.send(Release(9, MODEL, before.range, exact=True))
            with pytest.raises(Disconnected):
                await channel.receive()
        await eventually(lambda: b.held() == held)
        assert b.placement.held(MODEL, before.range) is not None
        assert layers_loaded(b) == before.range.layers


# What nobody holds any more ------------------------------------------------------------------------------------------


async def test_a_range_whose_only_holder_is_gone_is_adopted_by_own_sessions_alone(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        await a.placement.offer(model_to_offer(), unheard, goal=Goal(standby=StandbyPolicy.NONE))
        (lost,) = [each.claim for each in c.placement.own_shards()]
        before = a.available_bytes()
        c.kill()
        await eventually(lambda: a.placement.claims.lost(MODEL) == (lost,))
        assert not a.placement.can_load(MODEL, lost.range, a.peer)
        claim = a.placement.adoptable(lost, model_to_offer().config)
        assert (claim.holder, claim.range, claim.kind) == (a.peer, lost.range, StandbyKind.COLD)
        assert not a.placement.can_load(MODEL, lost.range, b.peer), "nobody else may have it loaded"
        await a.placement.load(MODEL, lost.range)
        assert a.placement.held(MODEL, lost.range) is not None
        await eventually(lambda: (a.peer, str(lost.range), True) in b.sees())

        await c.restart()
        await trio.sleep(3 * GIVE_BACK_S)
        assert [each.claim.range for each in c.placement.own_shards()] == [lost.range]
        assert a.placement.held(MODEL, lost.range) is None, "it was held for want of its holder"
        assert a.available_bytes() == before


async def test_a_session_that_opens_again_while_its_range_is_adopted_waits_for_that(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        await a.placement.offer(model_to_offer(), unheard, goal=Goal(standby=StandbyPolicy.NONE))
        (lost,) = [each.claim for each in c.placement.own_shards()]
        c.kill()
        await eventually(lambda: a.placement.claims.lost(MODEL) == (lost,))
        assert a.placement.adoptable(lost, model_to_offer().config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.placement.load, MODEL, lost.range)
            await trio.sleep(0.001)
            assert a.placement.held(MODEL, lost.range) is None, "it loads"
            assert a.placement.can_load(MODEL, lost.range, a.peer)
            assert not a.placement.can_load(MODEL, lost.range, b.peer)
            a.worker.memory_bytes = a.worker.memory_bytes - a.worker.free_bytes()
            assert a.placement.adoptable(lost, model_to_offer().config), "its memory is promised already"
            a.worker.memory_bytes *= 2
        assert a.placement.held(MODEL, lost.range) is not None


async def test_a_range_that_does_not_fit_is_not_adopted(autojump_clock):
    async with mesh_of(3) as (_, (a, _, c)):
        await a.placement.offer(model_to_offer(), unheard, goal=Goal(standby=StandbyPolicy.NONE))
        (lost,) = [each.claim for each in c.placement.own_shards()]
        a.worker.memory_bytes = a.worker.memory_bytes - a.worker.free_bytes()
        assert a.placement.adoptable(lost, model_to_offer().config) is None
