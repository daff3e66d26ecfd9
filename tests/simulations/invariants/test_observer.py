"""The observer: how often it tells, what it counts as a detection, and that nothing it does is felt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from simulations.cluster.clients import Clients
from simulations.cluster.cluster import Cluster
from simulations.determinism import run_deterministically
from simulations.invariants.invariant import LOOK_S, Breach, Invariant, When
from simulations.invariants.mesh import Mesh
from simulations.invariants.observer import Observer
from simulations.running.outcome import Detection, Violation
from simulations.scenarios.script import NodeSpec, Script
from simulations.trace import Trace

SCRIPT = Script("observed", 5, 60.0, tuple(NodeSpec(f"n{number}") for number in range(4)), layers=4)
Play = Callable[[Cluster], Awaitable[None]]


def observed(play: Play, *invariants: Invariant) -> Observer:
    """What an observer saw of a mesh to which that happened."""
    with TemporaryDirectory() as root:
        return run_deterministically(_observe, Path(root), play, invariants, seed=SCRIPT.seed)


async def _observe(root: Path, play: Play, invariants: tuple[Invariant, ...]) -> Observer:
    trace = Trace()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(SCRIPT, root, trace, nursery)
        await cluster.start()
        clients = Clients(cluster)
        observer = (
            Observer(cluster, clients, trace, invariants) if invariants else Observer(cluster, clients, trace)
        )
        nursery.start_soon(observer.run)
        await play(cluster)
        observer.finish()
        nursery.cancel_scope.cancel()
    return observer


async def _crash(cluster: Cluster) -> None:
    await trio.sleep_until(cluster.started_at_s + 2)
    await cluster.nodes["n2"].crash(silent=True)
    await trio.sleep(12)
    await cluster.restart(cluster.nodes["n2"])
    await trio.sleep(8)


@cache
def after_a_crash() -> tuple[list[Violation], list[Detection]]:
    observer = observed(_crash)
    return observer.violations, observer.detections


def test_a_crash_is_detected_once_by_all_who_live() -> None:
    (found,) = after_a_crash()[1]
    assert found.node == "n2"
    assert found.down_at_s is not None
    assert found.all_s is not None
    assert found.down_at_s < found.first_s <= found.all_s < found.down_at_s + 6


def test_a_crash_and_a_restart_break_nothing() -> None:
    assert after_a_crash()[0] == []


async def _pause(cluster: Cluster) -> None:
    await trio.sleep_until(cluster.started_at_s + 2)
    cluster.nodes["n1"].pause()
    await trio.sleep(8)
    cluster.nodes["n1"].resume()
    await trio.sleep(8)


def test_who_was_stopped_for_long_is_not_called_dead_wrongly_nor_late() -> None:
    observer = observed(_pause)
    assert observer.violations == []
    assert observer.detections == []


async def _part(cluster: Cluster) -> None:
    await trio.sleep_until(cluster.started_at_s + 2)
    peers = {name: node.peer for name, node in cluster.nodes.items()}
    apart = peers.pop("n3")
    assert apart is not None
    for peer in peers.values():
        assert peer is not None
        cluster.internet.cut(apart, peer)
    await trio.sleep(10)


def test_who_lives_and_is_called_dead_is_a_false_death() -> None:
    detections = observed(_part).detections
    assert {found.down_at_s for found in detections} == {None}
    assert "n3" in {found.node for found in detections}


async def _come_back_as_another(cluster: Cluster) -> None:
    await trio.sleep_until(cluster.started_at_s + 2)
    await cluster.nodes["n2"].crash("lost")
    await trio.sleep(1.5)
    await cluster.restart(cluster.nodes["n2"])
    await cluster.nodes["n1"].crash()
    await trio.sleep(3)
    await cluster.restart(cluster.nodes["n1"])  # hears only now of who n2 was
    await trio.sleep(6)


def test_a_late_verdict_on_who_a_node_was_is_no_false_death() -> None:
    assert all(found.down_at_s is not None for found in observed(_come_back_as_another).detections)


def _made(check: Callable[[Mesh], Iterator[Breach]]) -> Invariant:
    return Invariant("T1", "A sentence.", check, When.ALWAYS, LOOK_S)


async def _ten_looks(cluster: Cluster) -> None:
    await trio.sleep(9.5 * LOOK_S)


def test_what_stands_is_told_once_and_again_only_when_it_has_held_in_between() -> None:
    looks = iter([True, True, True, False, True, True, False, False, True, True, True])

    def check(_: Mesh) -> Iterator[Breach]:
        if next(looks):
            yield Breach(("n1",), "broken")

    assert len(observed(_ten_looks, _made(check)).violations) == 3


def test_what_may_stand_for_a_while_is_told_when_it_has_stood_that_long() -> None:
    looks = iter([True, True, False, True, True, True, True, True, True, True, True])

    def check(_: Mesh) -> Iterator[Breach]:
        if next(looks):
            yield Breach(("n1",), "broken", within_s=3.5 * LOOK_S)

    (found,) = observed(_ten_looks, _made(check)).violations
    assert found.nodes == ("n1",)


def test_nodes_are_told_of_one_by_one() -> None:
    def check(_: Mesh) -> Iterator[Breach]:
        yield Breach(("n1",), "broken")
        yield Breach(("n2",), "broken")

    assert len(observed(_ten_looks, _made(check)).violations) == 2
