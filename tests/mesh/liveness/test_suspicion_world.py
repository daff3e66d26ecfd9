"""Many detectors together, on links that lose and machines that stall: the bars, and that nobody is buried alive."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.liveness.detector import MemberSuspect, State
from protocols.ids import PeerId
from tests.mesh.liveness.suspicion_world import SuspicionWorld

LOSS = 0.03
KILL_S, STOP_S = 2.0, 5.0


def settled(count: int, seed: int, loss: float = LOSS) -> SuspicionWorld:
    world = SuspicionWorld(count, seed, loss)
    world.run(10.0 + world.random.random())
    return world


def all_alive(world: SuspicionWorld) -> bool:
    return all(world.states_of(peer) == {State.ALIVE} for peer in world.machines)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 12, 50])
@pytest.mark.parametrize(("end", "bar_s"), [(SuspicionWorld.kill, KILL_S), (SuspicionWorld.stop, STOP_S)])
def test_an_end_is_known_to_all_in_time_and_costs_nobody_else(
    count: int, end: Callable[[SuspicionWorld, PeerId], None], bar_s: float
) -> None:
    for seed in range(20 if count == 12 else 4):
        world = settled(count, seed)
        peer = [*world.machines][seed % count]
        since = world.now
        end(world, peer)
        world.run_for(10.0)
        assert world.known_dead_after(peer, since) <= bar_s
        assert {dead for _, _, dead in world.deaths()} == {peer}


@pytest.mark.parametrize(("count", "minutes"), [(12, 20), (50, 2)])
def test_nobody_who_stalls_for_less_than_a_second_is_ever_buried(count: int, minutes: int) -> None:
    world = SuspicionWorld(count, 5, LOSS)

    def stall_somebody() -> None:
        world.stall(world.random.choice([*world.machines]), world.random.uniform(0.1, 1.0))
        world.at(world.now + world.random.expovariate(1.0), stall_somebody)

    world.at(2.0, stall_somebody)
    world.run(60.0 * minutes)
    assert world.deaths() == []


def test_on_good_links_nobody_is_even_suspected() -> None:
    world = SuspicionWorld(12, 6, loss=0.01)
    world.run(600.0)
    assert not [
        event
        for machine in world.machines.values()
        for _, event in machine.events
        if isinstance(event, MemberSuspect)
    ]


@pytest.mark.parametrize("pause_s", [0.05, 0.6, 5.0, 100.0])
def test_a_restarted_node_is_alive_at_once_and_its_former_run_is_no_ghost(pause_s: float) -> None:
    for seed in range(4):
        world = settled(12, seed)
        peer = [*world.machines][seed]
        world.kill(peer)
        world.run_for(pause_s)
        world.restart(peer)
        world.run_for(2.0)
        assert all_alive(world)
        before = len(world.deaths())
        world.run_for(60.0)
        assert all_alive(world)
        assert len(world.deaths()) == before


def test_a_node_that_was_stopped_for_a_minute_is_alive_again_and_has_buried_nobody() -> None:
    for seed in range(4):
        world = settled(12, seed)
        peer = [*world.machines][seed]
        world.stop(peer)
        world.run_for(60.0)
        assert world.states_of(peer) == {State.DEAD}
        world.resume(peer)
        world.run_for(5.0)
        assert all_alive(world)
        assert {dead for _, _, dead in world.deaths()} == {peer}


@pytest.mark.parametrize(("end", "bar_s"), [(SuspicionWorld.kill, KILL_S), (SuspicionWorld.stop, STOP_S)])
def test_a_tenth_of_all_at_once_is_known_as_soon(
    end: Callable[[SuspicionWorld, PeerId], None], bar_s: float
) -> None:
    world = settled(50, 1)
    victims = [*world.machines][:5]
    since = world.now
    for victim in victims:
        end(world, victim)
    world.run_for(20.0)
    assert max(world.known_dead_after(victim, since) for victim in victims) <= bar_s
    assert {dead for _, _, dead in world.deaths()} == set(victims)


def test_the_last_of_three_comes_to_know_that_it_is_alone() -> None:
    world = settled(3, 1)
    one, two, _ = world.machines
    since = world.now
    world.kill(one)
    world.kill(two)
    world.run_for(15.0)
    assert max(world.known_dead_after(peer, since) for peer in (one, two)) < 10.0


def test_a_broken_link_between_two_is_not_the_end_of_either() -> None:
    world = settled(12, 1)
    one, two, *_ = world.machines
    world.cut = {frozenset((one, two))}
    world.run_for(120.0)
    assert world.deaths() == []


def test_both_halves_of_a_split_mesh_notice_and_are_one_again_after_it() -> None:
    world = settled(12, 1)
    peers = [*world.machines]
    world.cut = {frozenset((one, two)) for one in peers[:6] for two in peers[6:]}
    world.run_for(60.0)
    assert {world.machines[peers[0]].suspicion.state(peer) for peer in peers[6:]} == {State.DEAD}
    assert {world.machines[peers[0]].suspicion.state(peer) for peer in peers[1:6]} == {State.ALIVE}
    world.cut = set()
    world.run_for(20.0)
    assert all_alive(world)
