"""Placement over the virtual network: a model is divided, and whatever breaks on the way ends in claims or in a sentence."""

from __future__ import annotations

import pytest
import trio

from inference.placement.holding.grants import GrantPolicy
from inference.placement.planning.plan import Goal, StandbyPolicy
from inference.sessions.routing import find_route
from mesh.rpc import dial
from protocols import limits, streams
from protocols.errors import Disconnected, LocalFault, UserError
from protocols.placement import (
    PLACEMENT_CODEC,
    Claim,
    Declined,
    Granted,
    LayerRange,
    LoadFailed,
    ModelNote,
    Offer,
    Release,
    Survey,
)
from simulations.machine.arithmetic import LAYER_BYTES
from simulations.network.internet import NETWORK_ID
from tests.inference.placement.mesh_of_nodes import LAYERS, MODEL, mesh_of, model_to_offer

WHOLE = LayerRange(0, LAYERS)


def unheard(_event):
    pass


def kinds(events, kind):
    return [event for event in events if event["event"] == kind]


def talk(node, other):
    return dial(node.network, other.peer, streams.PLACEMENT, PLACEMENT_CODEC, NETWORK_ID)


async def eventually(condition, within_s=30):
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.001)  # what a node holds for a moment only is seen too


# The way it should go ------------------------------------------------------------------------------------------------


async def test_a_model_is_divided_over_three_nodes_with_a_standby_for_every_range(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        events = []
        plan = await a.placement.offer(model_to_offer(), events.append)
        assert next((str(each.range), each.primary) for each in plan.ranges) == ("0-2", a.peer)
        assert sorted(each.range.layers for each in plan.ranges) == [2, 3, 3]
        assert None not in [each.standby for each in plan.ranges]
        wanted = sorted((each.peer, str(each.range), each.standby) for each in plan.assignments())
        await eventually(lambda: a.sees() == b.sees() == c.sees() == wanted)
        assert [event["event"] for event in events][-1] == "ready"
        assert len(kinds(events, "surveyed")) == 3
        assert len(kinds(events, "granted")) == len(kinds(events, "claimed")) == 6
        assert {event["phase"] for event in kinds(events, "progress")} == {"fetching", "loading"}


async def test_a_node_with_caches_in_8_bit_is_asked_for_the_memory_that_they_take(autojump_clock):
    async with mesh_of(1) as (mesh, (a,)):
        b = await mesh.add(GrantPolicy(kv="int8"))
        model = model_to_offer()
        await a.placement.offer(model, unheard, goal=Goal(standby=StandbyPolicy.HOT))
        for node, kv in ((a, "model"), (b, "int8")):
            row_bytes = 2 * model.config.kv_heads * {"model": 2 * 4, "int8": 4 + 2}[kv]
            for grant in node.placement._holder.grants:
                layers, rows = grant.offer.range, model.config.context
                weights_bytes = model.config.range_bytes(layers, "bf16")
                assert grant.offer.bytes_needed == weights_bytes + layers.layers * rows * row_bytes
            assert len(list(node.placement._holder.grants)) == 2


async def test_every_node_routes_over_what_was_placed_and_finds_the_model_by_name(autojump_clock):
    async with mesh_of(3) as (_, nodes):
        await nodes[0].placement.offer(model_to_offer(), unheard)
        await trio.sleep(1)
        for node in nodes:
            note = node.placement.claims.lookup("tiny")
            route = find_route(node.placement.claims.claims(), note.digest, note.layers, node.peer)
            assert route.stages[-1].range.end == LAYERS
            own = [claim.range for claim in route.stages if claim.holder == node.peer]
            shards = [node.placement.held(MODEL, held) for held in own]
            assert [(shard.width, shard.is_exact) for shard in shards] == [(8, True)]
            assert node.placement.held(MODEL, LayerRange(0, 1)) is None


async def test_a_node_fetches_the_tensors_of_its_ranges_alone(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard)
        ranges = [each.claim.range for each in b.placement.own_shards()]
        config = model_to_offer().config
        assert set(b.weights.fetched) == {name for held in ranges for name in config.tensor_names(held)}
        assert a.weights.fetched == []


async def test_the_model_is_still_named_when_its_proposer_is_gone(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        a.kill()
        await eventually(lambda: {holder for holder, *_ in b.sees()} == {b.peer})
        assert b.placement.claims.lookup("tiny").digest == MODEL


async def test_a_slow_node_gets_fewer_layers(autojump_clock):
    async with mesh_of(1) as (mesh, (a,)):
        slow = await mesh.add(layer_ms=3.0, row_ms=0.03)
        plan = await a.placement.offer(model_to_offer(), unheard)
        assert [(each.primary, each.range.layers) for each in plan.ranges] == [(a.peer, 6), (slow.peer, 2)]


async def test_a_plan_can_be_looked_at_without_changing_anything(autojump_clock):
    async with mesh_of(3) as (_, (a, *others)):
        plan = await a.placement.plan_view(model_to_offer())
        assert len(plan.ranges) == 3
        only = await a.placement.plan_view(model_to_offer(), on=[others[0].peer])
        assert [each.primary for each in only.ranges] == [others[0].peer]
        assert all(node.held() == [] and node.sees() == [] for node in (a, *others))


async def test_offering_again_loads_nothing_and_raises_the_term(autojump_clock):
    async with mesh_of(3) as (_, nodes):
        a = nodes[0]
        await a.placement.offer(model_to_offer(), unheard)
        before = a.sees()
        versions = [each.shard for node in nodes for each in node.placement.own_shards()]
        began = trio.current_time()
        await a.placement.offer(model_to_offer(), unheard)
        assert a.sees() == before
        assert [each.shard for node in nodes for each in node.placement.own_shards()] == versions
        assert trio.current_time() - began < 1
        await eventually(lambda: {claim.term for claim in a.placement.claims.claims()} == {2})


async def test_a_new_division_releases_the_old_one_once_its_sessions_have_ended(autojump_clock):
    async with mesh_of(2) as (mesh, (a, b)):
        drained = trio.Event()

        async def wait(_shard):
            await drained.wait()

        await a.placement.offer(model_to_offer(), unheard)
        a.placement.unload_after(wait)
        old_bytes = a.worker.free_bytes()
        await mesh.add()
        plan = await a.placement.offer(model_to_offer(), unheard)
        assert len(plan.ranges) == 3
        wanted = sorted((each.peer, str(each.range), each.standby) for each in plan.assignments())
        await eventually(lambda: a.sees() == b.sees() == wanted)
        new_layers = sum(each.claim.range.layers for each in a.placement.own_shards())
        assert a.worker.free_bytes() == old_bytes - new_layers * LAYER_BYTES, "both, while sessions last"
        drained.set()
        await trio.sleep(1)
        assert a.worker.free_bytes() == a.worker.memory_bytes - new_layers * LAYER_BYTES


# Refusals and bad input ----------------------------------------------------------------------------------------------


async def test_a_model_too_big_for_the_mesh_is_refused_with_what_is_missing(autojump_clock):
    async with mesh_of(2, memory_bytes=2000) as (_, (a, b)):
        with pytest.raises(UserError, match=r"tiny needs .* are missing.*weft invite"):
            await a.placement.offer(model_to_offer(), unheard)
        assert a.held() == b.held() == []


async def test_a_node_whose_operator_refuses_holds_nothing(autojump_clock):
    async with mesh_of(2) as (mesh, (a, b)):
        unwilling = await mesh.add(GrantPolicy(refuses=True))
        plan = await a.placement.offer(model_to_offer(), unheard)
        assert {each.primary for each in plan.ranges} == {a.peer, b.peer}
        assert unwilling.held() == []


async def test_a_lease_refused_after_the_survey_is_planned_around(autojump_clock):
    async with mesh_of(3) as (_, (a, _, c)):
        events = []

        def hear(event):
            events.append(event)
            if event["event"] == "planned":
                c.placement._holder.grants.policy = GrantPolicy(layers_max=1)

        plan = await a.placement.offer(model_to_offer(), hear)
        declined = kinds(events, "declined")
        assert declined[0]["peer"] == c.peer
        assert "its operator allows 1 layers" in declined[0]["reason"]
        assert [each.range.layers for each in plan.ranges if each.primary == c.peer] == [1]
        assert len(kinds(events, "planned")) >= 2


async def test_when_everybody_refuses_the_user_hears_why(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):

        def hear(event):
            if event["event"] == "planned":
                for node in (a, b):
                    node.placement._holder.grants.policy = GrantPolicy(refuses=True)

        with pytest.raises(UserError, match=r"could not be placed: .*lets it hold no layers"):
            await a.placement.offer(model_to_offer(), hear)


async def test_a_worker_killed_while_loading_is_planned_around(autojump_clock):
    async with mesh_of(3) as (_, (a, _, c)):
        events = []

        def hear(event):
            events.append(event)
            if event["event"] == "progress" and event["peer"] == c.peer and event["phase"] == "loading":
                c.worker.crash()

        c.worker._load_s = 2.0
        plan = await a.placement.offer(model_to_offer(), hear)
        assert "the worker ended" in kinds(events, "failed")[0]["reason"]
        assert c.peer not in {each.peer for each in plan.assignments()}
        await trio.sleep(5)
        assert c.held() == []
        await eventually(lambda: c.available_bytes() == c.worker.memory_bytes)


async def test_a_tensor_with_another_hash_from_its_only_holder_is_named(autojump_clock):
    async with mesh_of(3, memory_bytes=9000) as (_, (a, b, c)):
        a.weights.spoiled = {"model.layers.5.mlp.up_proj.weight"}
        with pytest.raises(UserError, match=r"layers\.5\.mlp\.up_proj\.weight arrived with another hash"):
            await a.placement.offer(model_to_offer(), unheard)
        assert a.held() == b.held() == c.held() == []


async def test_a_node_that_is_not_up_cannot_be_asked_for(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        b.kill()
        await trio.sleep(1)
        with pytest.raises(UserError, match=r"is not up: 'weft status'"):
            await a.placement.offer(model_to_offer(), unheard, on=[b.peer])


async def test_one_model_is_placed_once_at_a_time(autojump_clock):
    async with mesh_of(2) as (_, (a, _)), trio.open_nursery() as nursery:
        nursery.start_soon(a.placement.offer, model_to_offer(), unheard)
        await trio.sleep(0.1)
        with pytest.raises(UserError, match="already"):
            await a.placement.offer(model_to_offer(), unheard)


async def test_a_silent_node_is_left_out_of_the_survey(autojump_clock):
    async with mesh_of(3) as (mesh, (a, _, c)):
        events = []
        mesh.world.silence(c.peer)
        plan = await a.placement.offer(model_to_offer(), events.append)
        assert [event["peer"] for event in kinds(events, "unreachable")] == [c.peer]
        assert c.peer not in {each.peer for each in plan.assignments()}


async def test_messages_that_do_not_belong_harm_nobody(autojump_clock):
    model = model_to_offer()
    async with mesh_of(2) as (_, (a, b)):
        claim = Claim(b.peer, MODEL, LayerRange(0, 8), False, "bf16", "exact", "x", 1.0, 1)
        offer = an_offer(b, proposer=b)
        for message, fault in (
            (claim, "Malformed"),
            (offer, "Unauthenticated"),
            (Granted(1), "Malformed"),
            (an_offer(a, held=LayerRange(3, 3)), "Malformed"),
        ):
            async with talk(a, b) as channel:
                await channel.send(message)
                with pytest.raises(Disconnected):
                    await channel.receive()
            assert b.network.faults[fault] >= 1
        async with talk(a, b) as channel:
            await channel.send_raw(b"\0\0\0\4none")
            with pytest.raises(Disconnected):
                await channel.receive()
        async with talk(a, b) as channel:
            await channel.send(Survey(MODEL, model.config.layer_shape("bf16")))
            await channel.receive()
        assert b.sees() == []


def an_offer(proposer_node, *, proposer=None, held=WHOLE, bytes_needed=1 << 20, lease_s=100.0):
    peer = (proposer or proposer_node).peer
    return Offer(1, peer, MODEL, held, False, "bf16", "exact", bytes_needed, lease_s, (proposer_node.peer,))


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        ({"held": LayerRange(4, 12)}, "layers 4-11 of a model of 8"),
        ({"bytes_needed": 1}, "and 1 were asked for"),
    ],
)
async def test_an_offer_that_does_not_fit_the_model_fails_when_the_model_is_known(
    autojump_clock, offered, reason
):
    async with mesh_of(2) as (_, (a, b)):
        async with talk(a, b) as channel:
            await channel.send(an_offer(a, **offered))
            assert await channel.receive() == Granted(1)
            failed = await channel.receive()
            assert isinstance(failed, LoadFailed)
            assert reason in failed.reason
        assert b.available_bytes() == b.worker.memory_bytes


async def test_a_load_past_its_lease_is_given_up(autojump_clock):
    async with mesh_of(2, load_s=60.0) as (_, (a, b)):
        async with talk(a, b) as channel:
            await channel.send(an_offer(a, lease_s=20.0))
            reply = await channel.receive()
            assert reply == Granted(1)
            while not isinstance(reply, LoadFailed):
                reply = await channel.receive()
            assert "lease ended" in reply.reason
        assert b.available_bytes() == b.worker.memory_bytes


# Losses --------------------------------------------------------------------------------------------------------------


async def test_a_proposer_that_dies_midway_leaves_no_grants(autojump_clock):
    async with mesh_of(3, load_s=5.0) as (_, (a, b, c)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.placement.offer, model_to_offer(), unheard)
            await eventually(lambda: b.available_bytes() < b.worker.memory_bytes)
            a.kill()
            nursery.cancel_scope.cancel()
        await trio.sleep(10)
        for node in (b, c):
            assert node.held() == []
            assert node.available_bytes() == node.worker.memory_bytes


async def test_the_lease_of_a_proposer_that_falls_silent_frees_the_grant(autojump_clock):
    async with mesh_of(2) as (mesh, (a, b)):
        b.weights.fetch_s = 1000.0
        async with talk(a, b) as channel:
            await channel.send(an_offer(a, lease_s=50.0))
            assert await channel.receive() == Granted(1)
            mesh.world.silence(a.peer)
            await trio.sleep(40)
            assert b.available_bytes() < b.worker.memory_bytes
            await trio.sleep(20)
            assert b.available_bytes() == b.worker.memory_bytes
            mesh.world.heal()


async def test_a_user_who_leaves_releases_what_was_granted_and_claimed(autojump_clock):
    async with mesh_of(3) as (_, nodes):
        nodes[2].worker._load_s = 100.0
        with trio.move_on_after(30):
            await nodes[0].placement.offer(model_to_offer(), unheard)
            pytest.fail("the third node loads for minutes")
        await trio.sleep(1)
        for node in nodes:
            assert node.held() == []
            assert node.available_bytes() == node.worker.memory_bytes


async def test_a_node_lost_midway_is_planned_around(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        events = []

        def hear(event):
            events.append(event)
            if event["event"] == "progress" and event["peer"] == c.peer and not kinds(events, "lost"):
                c.kill()

        c.worker._load_s = 5.0
        plan = await a.placement.offer(model_to_offer(), hear)
        assert {each.peer for each in plan.assignments()} == {a.peer, b.peer}
        assert kinds(events, "lost")[0]["peer"] == c.peer
        wanted = sorted((each.peer, str(each.range), each.standby) for each in plan.assignments())
        await eventually(lambda: a.sees() == b.sees() == wanted)


async def test_a_node_lost_after_its_claim_is_planned_around_while_others_load(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        b.worker._load_s = 20.0
        mine = []

        def hear(event):
            if event["event"] == "claimed" and event["peer"] == c.peer:
                mine.append(event)
                if len(mine) == 2:
                    c.kill()

        plan = await a.placement.offer(model_to_offer(), hear)
        assert {each.peer for each in plan.assignments()} == {a.peer, b.peer}


async def test_two_proposers_at_once_end_in_one_plan(autojump_clock):
    for head_start_s in (0.0, 0.05, 0.2, 1.0, 5.0):
        async with mesh_of(3, load_s=3.0) as (mesh, nodes):
            mesh.give_model(*nodes)
            ends = {}

            async def place(node, after_s, ends=ends):
                await trio.sleep(after_s)
                try:
                    ends[node.peer] = await node.placement.offer(model_to_offer(), unheard)
                except UserError as error:
                    ends[node.peer] = str(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(place, nodes[0], 0.0)
                nursery.start_soon(place, nodes[1], head_start_s)
            (plan,) = [end for end in ends.values() if not isinstance(end, str)]
            (loser,) = [end for end in ends.values() if isinstance(end, str)]
            assert "is placing it as well and goes on" in loser
            wanted = sorted((each.peer, str(each.range), each.standby) for each in plan.assignments())
            await eventually(lambda nodes=nodes, wanted=wanted: all(node.sees() == wanted for node in nodes))


async def test_the_later_of_two_plans_stands_and_what_the_earlier_left_behind_is_released(autojump_clock):
    async with mesh_of(3) as (mesh, (a, b, c)):
        mesh.give_model(b)
        await a.placement.offer(model_to_offer(), unheard)
        c.kill()
        await eventually(lambda: all(holder != c.peer for holder, *_ in b.sees()))
        plan = await b.placement.offer(model_to_offer(), unheard)
        wanted = sorted((each.peer, str(each.range), each.standby) for each in plan.assignments())
        assert {peer for peer, *_ in wanted} == {a.peer, b.peer}
        await c.restart()
        await eventually(lambda: c.held() != [])
        await eventually(lambda: a.sees() == b.sees() == c.sees() == wanted)
        assert c.held() == []
        await eventually(lambda: c.available_bytes() == c.worker.memory_bytes)


# Afterwards ----------------------------------------------------------------------------------------------------------


async def test_a_member_that_goes_down_is_out_of_the_table_and_back_when_it_comes_up(autojump_clock):
    async with mesh_of(3) as (mesh, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard)
        before = a.sees()
        await a.network.disconnect(b.peer)
        await trio.sleep(0.5)
        assert b.peer not in {holder for holder, *_ in a.sees()}
        await mesh.connect()
        assert a.sees() == before


async def test_a_killed_node_comes_back_by_itself_with_its_shards(autojump_clock):
    async with mesh_of(3) as (_, (a, b, c)):
        await a.placement.offer(model_to_offer(), unheard)
        before, held = a.sees(), b.held()
        b.kill()
        await eventually(lambda: b.peer not in {holder for holder, *_ in a.sees()})
        b.weights.fetched.clear()
        await b.restart()
        await eventually(lambda: b.held() == held)
        await eventually(lambda: a.sees() == b.sees() == c.sees() == before)
        assert b.weights.fetched == [], "from its own disk"


async def test_a_restarted_node_waits_for_weights_that_are_away(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        held = b.held()
        for node in (a, b):
            node.kill()
        await trio.sleep(1)
        b.weights.tensors.clear()
        await b.restart()
        await trio.sleep(60)
        assert b.held() == []
        await a.restart()
        await eventually(lambda: b.held() == held, within_s=120)


async def test_a_worker_that_dies_withdraws_its_claims_and_has_them_again_soon(autojump_clock):
    async with mesh_of(3) as (_, (a, b, _)):
        await a.placement.offer(model_to_offer(), unheard)
        before = a.sees()
        b.worker.crash()
        await trio.testing.wait_all_tasks_blocked()
        assert b.held() == []
        await trio.sleep(0.1)
        assert b.peer not in {holder for holder, *_ in a.sees()}
        await eventually(lambda: a.sees() == before)


async def test_a_range_that_keeps_killing_the_worker_is_given_up(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        b.worker._load_s = 5.0

        async def kill_whatever_loads():
            while True:
                b.worker.crash()
                await trio.sleep(3.0)

        with trio.move_on_after(300):
            await kill_whatever_loads()
        assert b.held() == []
        assert list(b.placement._holder.grants) == []


async def test_a_worker_that_is_long_in_coming_back_costs_no_range(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        held = b.held()
        b.worker._restart_s = 600.0
        b.worker.crash()
        await trio.sleep(599)
        assert b.held() == []
        await eventually(lambda: b.held() == held)


async def test_weights_that_are_wrong_on_reload_are_given_up(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        b.kill()
        b.weights.tensors.clear()
        a.weights.spoiled = set(a.weights.tensors)
        await b.restart()
        await trio.sleep(300)
        assert b.held() == []
        assert list(b.placement._holder.grants) == []


async def test_a_range_that_is_being_reloaded_is_not_granted_again_yet(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        claim = b.placement.own_shards()[0].claim
        b.worker.crash()
        await trio.sleep(0.01)
        async with talk(a, b) as channel:
            await channel.send(
                Offer(9, a.peer, MODEL, claim.range, False, "bf16", "exact", 1 << 20, 10.0, (a.peer,))
            )
            reply = await channel.receive()
            assert isinstance(reply, Declined)
            assert "loads that range again" in reply.reason


async def test_a_released_range_that_waits_for_its_worker_is_forgotten(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        await a.placement.offer(model_to_offer(), unheard)
        ranges = [each.claim.range for each in b.placement.own_shards()]
        b.worker.crash()
        await trio.sleep(0.01)
        for held in ranges:
            async with talk(a, b) as channel:
                await channel.send(Release(1, MODEL, held))
                with pytest.raises(Disconnected):
                    await channel.receive()
        await trio.sleep(60)
        assert b.held() == []
        assert b.available_bytes() == b.worker.memory_bytes


async def test_a_full_disk_does_not_keep_a_range_from_being_served(autojump_clock):
    async with mesh_of(2) as (_, (a, b)):
        b.disk.is_full = True
        await a.placement.offer(model_to_offer(), unheard)
        assert b.held()


async def test_a_damaged_file_of_claims_is_named(autojump_clock):
    async with mesh_of(1) as (_, (a,)):
        a.disk.write("claims.msgpack", b"\x93")
        with pytest.raises(LocalFault, match=r"claims\.msgpack is damaged.*delete it"):
            await a.placement._holder.run()


async def test_the_number_of_named_models_is_bounded(autojump_clock, monkeypatch):
    monkeypatch.setattr(limits, "MODELS_MAX", 1)
    async with mesh_of(1) as (_, (a,)):
        a.placement.keep_note(ModelNote(MODEL, "one", 8))
        a.placement.keep_note(ModelNote(MODEL, "renamed", 8))
        with pytest.raises(UserError, match="no more fit"):
            a.placement.keep_note(ModelNote("cd" * 32, "two", 8))
