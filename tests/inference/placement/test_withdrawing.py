"""Taking a model back, leases that are not kept, and several models on one mesh."""

from __future__ import annotations

import pytest
import trio

from inference.placement.driver import ModelToOffer
from inference.placement.holding.grants import GrantPolicy
from inference.placement.planning.plan import Goal, StandbyPolicy
from inference.placement.proposer import Proposer
from mesh.rpc import accepting
from protocols import limits, streams
from protocols.errors import UserError
from protocols.ids import ModelDigest
from protocols.observations import Outcome
from protocols.placement import PLACEMENT_CODEC, Granted, ModelNote, Offer
from simulations.network.internet import NETWORK_ID
from tests.inference.placement.mesh_of_nodes import LAYERS, MODEL, mesh_of, model_to_offer
from tests.inference.placement.test_driver import eventually, kinds, unheard

NOTE = ModelNote(MODEL, "tiny", LAYERS)
OTHER = ModelDigest("cd" * 32)


# Withdrawing ---------------------------------------------------------------------------------------------------------


async def test_a_withdrawn_model_is_claimed_by_nobody_and_its_memory_is_free(autojump_clock):
    async with mesh_of(3) as (_, nodes):
        await nodes[0].placement.offer(model_to_offer(), unheard)
        released = await nodes[1].placement.withdraw(NOTE)
        assert len(released) == 6
        assert {each.trouble for each in released} == {""}
        await eventually(lambda: all(node.sees() == [] for node in nodes))
        assert all(node.available_bytes() == node.worker.memory_bytes for node in nodes)
        assert await nodes[2].placement.withdraw(NOTE) == (), "a second time there is nothing to do"
        assert nodes[1].placement.claims.lookup("tiny").digest == MODEL, "it can be offered again by its name"


async def test_sessions_end_in_peace_and_those_that_last_are_named(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        drained = trio.Event()

        async def wait(_shard):
            await drained.wait()

        await a.placement.offer(model_to_offer(), unheard)
        b.placement.unload_after(wait)
        released = await a.placement.withdraw(NOTE, within_s=5.0)
        assert {each.holder for each in released if each.trouble} == {b.peer}
        assert b.held() == [], "no new session is taken"
        assert b.worker.free_bytes() < b.worker.memory_bytes
        drained.set()
        await eventually(lambda: b.worker.free_bytes() == b.worker.memory_bytes)


async def test_what_was_down_while_its_model_was_withdrawn_lets_go_when_it_comes_back(autojump_clock):
    async with mesh_of(3) as (_, (a, _b, c)):
        await a.placement.offer(model_to_offer(), unheard)
        c.kill()
        await eventually(lambda: all(holder != c.peer for holder, *_ in a.sees()))
        await a.placement.withdraw(NOTE)
        await c.restart()
        await eventually(lambda: c.held() != [])
        await eventually(lambda: c.held() == [] and a.sees() == [])


async def test_a_withdrawn_model_can_be_offered_again_by_another(autojump_clock):
    async with mesh_of(3) as (mesh, (a, b, c)):
        mesh.give_model(b)
        await a.placement.offer(model_to_offer(), unheard)
        await a.placement.withdraw(NOTE)
        plan = await b.placement.offer(model_to_offer(), unheard)
        await trio.sleep(5)
        wanted = sorted((each.peer, str(each.range), each.standby) for each in plan.assignments())
        assert a.sees() == b.sees() == c.sees() == wanted


async def test_a_model_that_is_being_placed_is_not_withdrawn_here(autojump_clock):
    async with mesh_of(2, load_s=5.0) as (_, (a, _)), trio.open_nursery() as nursery:
        nursery.start_soon(a.placement.offer, model_to_offer(), unheard)
        await trio.sleep(1)
        with pytest.raises(UserError, match="being placed already"):
            await a.placement.withdraw(NOTE)


# Leases --------------------------------------------------------------------------------------------------------------


async def test_a_peer_that_grants_and_never_serves_is_planned_around_and_observed(autojump_clock):
    seen, asked = [], []
    async with mesh_of(3) as (_, (a, _, c)):

        async def grant_and_sleep(channel):
            message = await channel.receive()
            if isinstance(message, Offer):
                asked.append(message)
                await channel.send(Granted(message.term))
                await trio.sleep_forever()
            await channel.send(await c.placement._holder.survey(message))

        c.network.handle(
            streams.PLACEMENT, accepting(streams.PLACEMENT, PLACEMENT_CODEC, NETWORK_ID, grant_and_sleep)
        )
        proposer: Proposer = a.placement._proposer
        proposer._observe = lambda peer, outcome, detail: seen.append((peer, outcome, detail))
        events, began = [], trio.current_time()
        plan = await a.placement.offer(model_to_offer(), events.append)
        assert c.peer not in {each.peer for each in plan.assignments()}
        lease_s = asked[0].lease_s
        assert lease_s < trio.current_time() - began < lease_s + 2 * limits.REPLY_S + 10
        assert {(peer, outcome) for peer, outcome, _ in seen} == {(c.peer, Outcome.FAILED)}
        assert "neither a claim nor a word" in seen[0][2]
        assert kinds(events, "lost")[0]["peer"] == c.peer


async def test_claimed_ranges_stay_when_their_proposer_dies_and_granted_ones_go(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        c.worker._load_s = 50.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.placement.offer, model_to_offer(), unheard)
            await eventually(lambda: any(not standby for _, standby in b.held()))
            a.kill()
            nursery.cancel_scope.cancel()
        await trio.sleep(20)
        assert any(not standby for _, standby in b.held())
        assert c.held() == []
        assert c.available_bytes() == c.worker.memory_bytes


# Who gets what -------------------------------------------------------------------------------------------------------


async def test_a_worker_slowed_four_times_gets_fewer_layers(autojump_clock):
    async with mesh_of(2) as (mesh, (a, b)):
        slow = await mesh.add(layer_ms=4.0, row_ms=0.04)
        plan = await a.placement.offer(model_to_offer(), unheard)
        counts = {each.primary: each.range.layers for each in plan.ranges}
        assert counts[slow.peer] < min(counts[a.peer], counts[b.peer])


async def test_a_node_capped_at_two_layers_and_one_that_refuses_each_change_the_plan(autojump_clock):
    async with mesh_of(2) as (mesh, (a, _)):
        capped = await mesh.add(GrantPolicy(layers_max=2))
        unwilling = await mesh.add(GrantPolicy(refuses=True))
        plan = await a.placement.plan_view(model_to_offer())
        (of_capped,) = [each.range.layers for each in plan.ranges if each.primary == capped.peer]
        assert of_capped <= 2
        assert unwilling.peer not in {each.peer for each in plan.assignments()}
        assert unwilling.peer in {refusal.peer for refusal in plan.refusals}


async def test_several_models_share_one_mesh_within_its_memory(autojump_clock):
    async with mesh_of(2) as (_mesh, (a, b)):
        first = model_to_offer()
        second = ModelToOffer(OTHER, "other", first.config, "f32", "exact")
        bare = Goal(standby=StandbyPolicy.NONE)
        await a.placement.offer(first, unheard, goal=bare)
        free = b.available_bytes()
        await a.placement.offer(second, unheard, goal=bare)
        assert b.available_bytes() < free
        assert {claim.model for claim in b.placement.claims.claims()} == {MODEL, OTHER}
        for node in (a, b):
            node.worker.memory_bytes -= node.available_bytes()  # full now
        with pytest.raises(UserError, match="third needs"):
            third = ModelToOffer(ModelDigest("ef" * 32), "third", first.config, "bf16", "exact")
            await a.placement.offer(third, unheard, goal=bare)
        again = await a.placement.offer(first, unheard, goal=bare)
        assert len(again.ranges) == 2, "what stays as it is needs nothing"
