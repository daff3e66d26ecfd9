"""Many machines: everybody hears everything, though messages are lost, halves are apart, and nodes sleep."""

from __future__ import annotations

from collections import Counter

from protocols.gossip import Heard, Topic
from protocols.ids import PeerId
from tests.benchmarks.figures import percentile
from tests.benchmarks.gossip_spread import spread
from tests.mesh.gossip.meshes import World


def test_of_a_thousand_nodes_that_lose_a_hundredth_nearly_all_hear_within_two_seconds() -> None:
    times_s = spread(nodes=1000, authors=3, words=12, loss=0.01, seed=1)
    assert percentile(times_s, 0.999) <= 2.0
    assert max(times_s) < 60, "repair brings the rest"


def test_steady_talk_of_all_comes_to_trees_without_duplicates() -> None:
    world = World(seed=3)
    peers = world.add(12)
    world.introduce(peers, peers)
    world.run(3)

    def talk(for_s: int) -> Counter[str]:
        before = sum((node.counts for node in world.nodes.values()), Counter[str]())
        for number in range(for_s * 20):
            for peer in peers:
                world.publish(peer, str(number % 20))
            world.run(0.05)
        return sum((node.counts for node in world.nodes.values()), Counter[str]()) - before

    talk(2)
    counted = talk(3)
    assert counted["bundles"] > 3 * 20 * 12 * 10
    assert counted["duplicate"] < counted["bundles"] / 20


def test_halves_that_were_apart_hear_of_each_other_soon_after() -> None:
    world = World(seed=5)
    peers = world.add(60)
    left, right = peers[:30], peers[30:]
    world.introduce(peers, peers)
    world.run(3)
    world.is_cut = lambda one, two: (one in left) != (two in left)
    world.notice_cut()
    world.introduce(left, left)
    world.introduce(right, right)
    world.run(8)
    for peers_here, key in ((left, "left"), (right, "right")):
        world.publish(peers_here[0], key)
    world.run(5)
    assert not world.has(right[3], left[0], "left")
    world.is_cut = lambda _one, _two: False
    world.introduce(peers, peers)
    world.run(1.5)  # shuffles alone would take most of a minute to reach everybody
    assert all(world.has(peer, left[0], "left") for peer in right)
    assert all(world.has(peer, right[0], "right") for peer in left)


def test_halves_whose_members_never_noticed_are_joined_by_repair() -> None:
    world = World(seed=6)
    peers = world.add(30)
    left = peers[:15]
    world.introduce(peers, peers)
    world.run(3)
    world.is_cut = lambda one, two: (one in left) != (two in left)
    world.publish(left[0], "left")
    world.run(3)
    world.is_cut = lambda _one, _two: False
    world.run(40)
    assert all(world.has(peer, left[0], "left") for peer in peers)


def test_a_node_that_slept_catches_up_with_what_stands_and_only_with_that() -> None:
    world = World(seed=7)
    peers = world.add(30)
    world.introduce(peers, peers)
    world.run(3)
    sleeper = peers[4]
    world.asleep.add(sleeper)
    for number in range(40):
        for peer in peers[5:15]:
            world.publish(peer, f"{number % 4}", str(number).encode())
        world.run(0.5)
    for peer in peers[5:10]:
        world.publish(peer, "0", b"")
    world.run(2)
    before = world.nodes[sleeper].counts.copy()
    world.wake(sleeper)
    world.run(5)
    here = {(one.author, one.key): one.body for one in _items(world, sleeper)}
    there = {(one.author, one.key): one.body for one in _items(world, peers[20])}
    assert here == there
    assert len(here) == 5 * 4 + 5 * 3
    assert (world.nodes[sleeper].counts - before)["bundles"] <= 50, "superseded bundles are not repaired"


def _items(world: World, peer: PeerId) -> tuple[Heard, ...]:
    return world.nodes[peer].items(Topic.HEALTH, world.wall_ms)


def test_links_are_as_many_as_wanted_and_the_graph_holds_together() -> None:
    world = World(seed=8)
    peers = world.add(200)
    world.introduce(peers, peers)
    world.run(120)
    degrees = [len(node.neighbours) for node in world.nodes.values()]
    assert min(degrees) >= 4
    assert max(degrees) <= 14
    reached, edge = {peers[0]}, [peers[0]]
    while edge:
        edge = [two for one in edge for two in world.nodes[one].neighbours if two not in reached]
        reached.update(edge)
    assert len(reached) == 200


def test_a_mesh_grown_one_by_one_is_one_mesh() -> None:
    world = World(seed=9)
    first = world.add(1)
    for _ in range(40):
        world.add(1)
        everybody = list(world.nodes)
        world.introduce(everybody, everybody)
        world.run(0.5)
    world.publish(first[0], "k")
    world.run(2)
    assert all(world.has(peer, first[0], "k") for peer in world.nodes)
