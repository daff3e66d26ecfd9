"""Worlds of pure machines: what befalls their nodes, and that an observer sees what must not be."""

from __future__ import annotations

import pytest

from mesh.gossip.views import Views
from mesh.liveness import suspicion_events as e
from mesh.liveness.detector import MemberAlive, MemberDead, State
from mesh.liveness.suspicion import Suspicion
from protocols import limits
from protocols.gossip import Topic
from protocols.liveness import Left
from simulations.scenarios.script import LinkSpec
from simulations.world import sentences as say
from simulations.world.node import WorldNode
from simulations.world.world import World

SETTLED_S = 8.0


def settled(count: int = 12, seed: int = 1, loss: float = 0.01) -> World:
    world = World.of(count, seed, LinkSpec(latency_ms=4, jitter_ms=26, loss=loss))
    world.run(SETTLED_S)
    return world


def states_of(world: World, subject: WorldNode) -> set[State]:
    return {
        node.suspicion.state(subject.peer) for node in world.nodes if node.is_awake and node is not subject
    }


def broken(world: World) -> set[str]:
    world.observer.finish()
    return {violation.invariant for violation in world.observer.violations}


@pytest.mark.parametrize(("silent", "first_s", "all_s"), [(False, 1.5, 2.0), (True, 3.0, 3.5)])
def test_a_death_is_known_to_all_in_time_and_nobody_else_is_called_dead(
    silent: bool, first_s: float, all_s: float
) -> None:
    for seed in range(2):
        world = settled(20, seed)
        world.kill(world.nodes[seed], silent=silent)
        world.run(SETTLED_S + 8)
        assert not broken(world)
        (death,) = world.observer.detections
        assert death.node == f"n{seed}"
        assert death.down_at_s == SETTLED_S
        assert death.all_s is not None
        assert death.first_s <= SETTLED_S + first_s
        assert death.all_s <= SETTLED_S + all_s


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("pause_s", [0.2, 6.0])
def test_a_restarted_node_goes_on_above_its_incarnation_and_is_alive_to_all(
    silent: bool, pause_s: float
) -> None:
    world = settled(seed=2)
    node = world.nodes[3]
    before = node.suspicion.incarnation
    world.kill(node, silent=silent)
    world.run(SETTLED_S + pause_s)
    world.restart(node)
    assert node.suspicion.incarnation > before
    world.run(world.now_s + 25)
    assert states_of(world, node) == {State.ALIVE}
    assert len(node.connections) == 11
    assert len(node.items(Topic.HEALTH)) == 12
    assert not broken(world)


def test_whoever_stalls_for_less_than_a_second_is_never_called_dead() -> None:
    world = settled(seed=3, loss=0.03)
    for number in range(60):
        at_s, node = SETTLED_S + number * 0.5, world.nodes[number % 12]
        world.at(at_s, world.pause, node)
        world.at(at_s + 0.8, world.resume, node)
    world.run(SETTLED_S + 35)
    assert not broken(world)
    assert not world.observer.detections


def test_a_node_that_was_stopped_is_dead_until_it_runs_again_and_has_buried_nobody() -> None:
    world = settled(seed=4)
    node = world.nodes[5]
    world.pause(node)
    world.run(SETTLED_S + 6)
    assert states_of(world, node) == {State.DEAD}
    world.resume(node)
    world.run(SETTLED_S + 30)
    assert all(states_of(world, each) == {State.ALIVE} for each in world.nodes)
    assert not broken(world)


def test_whoever_leaves_has_left_in_every_view_before_it_is_gone() -> None:
    world = settled(seed=5)
    world.leave(world.nodes[2])
    world.run(SETTLED_S + 0.3)
    assert states_of(world, world.nodes[2]) == {State.LEFT}
    world.run(SETTLED_S + 25)
    assert not broken(world)


def test_halves_that_were_apart_are_one_again_within_twenty_seconds() -> None:
    world = settled(seed=6)
    ways = [(one, two) for one in range(6) for two in range(6, 12)]
    for one, two in ways:
        world.ways.cut(one, two)
        world.ways.cut(two, one)
    world.run(SETTLED_S + 10)
    assert states_of(world, world.nodes[0]) == {State.ALIVE, State.DEAD}
    for one, two in ways:
        world.ways.mend(one, two)
        world.ways.mend(two, one)
    world.run(SETTLED_S + 30)
    assert all(states_of(world, each) == {State.ALIVE} for each in world.nodes)


def test_a_link_that_is_deaf_one_way_kills_neither_of_its_ends() -> None:
    world = settled(seed=7)
    monitor = world.nodes[0]
    subject = world.number_of[monitor.suspicion.subjects[0]]
    world.ways.cut(subject, 0)
    world.run(SETTLED_S + 15)
    assert not [each for each in world.observer.violations if each.invariant == say.FALSE_DEATH]


# That an observer sees it ----------------------------------------------------------------------------------------------


def test_detectors_in_too_much_of_a_hurry_are_seen_to_call_the_living_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PROBE_S", "INQUIRY_S", "REFUTE_S"):
        monkeypatch.setattr(limits, name, 0.005)
    monkeypatch.setattr(Suspicion, "_helpers", lambda _self, _subject: [])
    world = World.of(6, seed=1)
    world.run(3.0)
    assert say.FALSE_DEATH in broken(world)


def test_detectors_that_take_their_time_are_seen_to_know_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REFUTE_S", 30.0)
    monkeypatch.setattr(limits, "ALONE_S", 30.0)
    world = settled()
    world.kill(world.nodes[0], silent=True)
    world.run(SETTLED_S + 8)
    assert say.DEATH_KNOWN in broken(world)


def test_a_mesh_that_nobody_holds_together_is_seen_to_be_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Views, "to_open", lambda _self, _now: [])
    assert {say.OVERLAY, say.DELIVERY} <= broken(settled())


def test_a_view_that_stays_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    world = settled()
    world.watching.handle(world.nodes[1], e.Heard(world.nodes[2].peer, Left(10**6)))
    world.run(SETTLED_S + 21)
    assert say.HEALED in broken(world)


def test_an_incarnation_that_nobody_said_one_that_falls_and_a_verdict_of_nobody_are_seen() -> None:
    world = settled()
    one, two, three = world.nodes[:3]
    world.changed(one, MemberAlive(two.peer, 99))
    assert broken(world) == {say.INCARNATIONS}
    world = settled()
    world.changed(one, MemberAlive(three.peer, 1))
    world.changed(one, MemberAlive(three.peer, 0))
    assert broken(world) == {say.INCARNATIONS}
    world = settled()
    world.changed(world.nodes[0], MemberDead(world.nodes[2].peer, 1))
    assert broken(world) == {say.WITNESSES, say.FALSE_DEATH}


def test_pictures_that_differ_are_seen_to_give_other_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    world = settled()
    world.run(21.0)
    deaf = world.nodes[0]
    monkeypatch.setattr(deaf, "items", lambda _topic: world.nodes[1].items(Topic.HEALTH)[:3])
    assert broken(world) == {say.PLANS}
