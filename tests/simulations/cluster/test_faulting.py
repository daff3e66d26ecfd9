"""Faults on small clusters: each shows, and those that overlap compose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from protocols.hello import MINOR
from protocols.placement import LayerRange, StandbyKind
from simulations.cluster.clients import Clients
from simulations.cluster.cluster import Cluster
from simulations.cluster.conditions import severed
from simulations.cluster.faulting import Faulting, described
from simulations.scenarios.faults import (
    ClockJump,
    Crash,
    DiskFull,
    DiskSlow,
    Fault,
    Leave,
    Lie,
    Offer,
    Partition,
    Pause,
    Reset,
    SlowLink,
    Stall,
    Upgrade,
    WorkerCrash,
    WorkerHang,
    WorkerSlow,
)
from simulations.scenarios.script import LinkSpec, NodeSpec, Request, Script
from simulations.trace import Trace

Play = Callable[..., AbstractAsyncContextManager[tuple[Cluster, Faulting]]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    @asynccontextmanager
    async def played(
        *faults: Fault,
        settled_at_s: float | None = None,
        core: tuple[str, ...] = (),
        links: tuple[LinkSpec, ...] = (),
    ) -> AsyncIterator[tuple[Cluster, Faulting]]:
        nodes = tuple(NodeSpec(f"n{index}") for index in range(3))
        script = Script(
            "test", 1, 60.0, nodes, faults=faults, settled_at_s=settled_at_s, core=core, links=links
        )
        async with trio.open_nursery() as nursery:
            cluster = Cluster(script, tmp_path, Trace(), nursery)
            await cluster.start()
            faulting = Faulting(cluster)
            nursery.start_soon(faulting.run)
            yield cluster, faulting
            cluster.pauses.resume_all()
            nursery.cancel_scope.cancel()

    return played


async def at(cluster: Cluster, at_s: float) -> None:
    """Just after what is due then."""
    await trio.sleep_until(cluster.started_at_s + at_s + 0.01)


def is_open(cluster: Cluster, source: str, target: str) -> bool:
    one, two = cluster.nodes[source].peer, cluster.nodes[target].peer
    assert one is not None
    assert two is not None
    return cluster.internet.links.is_open(one, two)


def latency_ms(cluster: Cluster, source: str, target: str) -> float:
    one, two = cluster.nodes[source].peer, cluster.nodes[target].peer
    assert one is not None
    assert two is not None
    return round(1000 * cluster.internet.links.between(one, two).latency_s, 3)


async def test_a_crash_is_followed_by_a_start_when_it_is_due(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Crash(1, "n1", restart_s=4)) as (cluster, faulting):
        await at(cluster, 1)
        assert not cluster.nodes["n1"].is_on
        await at(cluster, 4.5)
        assert not cluster.nodes["n1"].is_on
        await at(cluster, 8)
        assert cluster.nodes["n1"].is_up
        (mark,) = faulting.marks
        assert mark.label == "crash of n1"
        assert 5 <= mark.until_s - cluster.started_at_s < 8


def terms(cluster: Cluster) -> set[int]:
    daemons = (node.daemon for node in cluster.up)
    return {claim.term for daemon in daemons if daemon for claim in daemon.placement.claims.claims()}


async def test_a_model_that_is_offered_again_stands_in_the_newer_plan(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Offer(1, "n1", on=("n0", "n2"))) as (cluster, faulting):
        assert terms(cluster) == {1}
        await at(cluster, 20)
        assert terms(cluster) == {2}
        assert not any(grant.offer.term for grant in cluster.nodes["n1"].daemon.placement._holder.grants)  # type: ignore[union-attr]
        (mark,) = faulting.marks
        assert mark.label == "n1 offers the model to n0+n2"
        assert mark.until_s - mark.at_s < 15


async def test_an_offer_that_takes_too_long_leaves_all_as_it_was(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Offer(1, "n1", patience_s=0.05)) as (cluster, _):
        before = held(cluster)
        await at(cluster, 20)
        assert terms(cluster) == {1}
        assert held(cluster) == before


def held(cluster: Cluster) -> set[tuple[str, LayerRange, bool, StandbyKind]]:
    daemons = {node.name: node.daemon for node in cluster.up if node.daemon}
    claims = (
        (name, each.claim) for name, daemon in daemons.items() for each in daemon.placement.own_shards()
    )
    return {(name, claim.range, claim.standby, claim.kind) for name, claim in claims}


async def test_whoever_crashes_for_good_stays_down_until_all_has_settled(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Crash(1, "n1"), Crash(1, "n2"), settled_at_s=20, core=("n0", "n1")) as (
        cluster,
        faulting,
    ):
        await at(cluster, 19)
        assert [node.name for node in cluster.up] == ["n0"]
        await at(cluster, 25)
        assert [node.name for node in cluster.up] == ["n0", "n1"]
        until_s = {mark.label: mark.until_s for mark in faulting.marks}
        assert until_s["crash of n2"] == trio.current_time(), "it is still down"


async def test_a_start_that_is_due_later_is_not_waited_for_once_all_has_settled(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Crash(1, "n1", restart_s=50), settled_at_s=5) as (cluster, _):
        await at(cluster, 9)
        assert cluster.nodes["n1"].is_up


async def test_a_crash_may_come_while_a_node_is_paused_starts_or_leaves(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    faults = (
        Pause(1, "n1", 20),
        Crash(2, "n1", restart_s=0.5),
        Crash(2.501, "n1", restart_s=1),
        Leave(10, "n2", restart_s=1),
        Crash(10.001, "n2", restart_s=3),
    )
    async with play(*faults) as (cluster, _):
        await at(cluster, 1)
        assert cluster.nodes["n1"].is_paused
        await at(cluster, 2)
        assert not cluster.nodes["n1"].is_on
        await at(cluster, 2.501)
        assert not cluster.nodes["n1"].is_on
        await at(cluster, 8)
        assert cluster.nodes["n1"].is_up
        assert not cluster.nodes["n1"].is_paused, "the pause was of a process that is gone"
        await at(cluster, 22)
        assert [node.name for node in cluster.up] == ["n0", "n1", "n2"]
        assert cluster.nodes["n1"].starts == 3
        assert cluster.panics == []


async def test_pauses_that_overlap_end_with_the_last(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Pause(1, "n1", 2), Pause(2, "n1", 3)) as (cluster, _):
        await at(cluster, 4)
        assert cluster.nodes["n1"].is_paused
        await at(cluster, 5)
        assert not cluster.nodes["n1"].is_paused


async def test_a_stall_is_many_pauses(play: Play, autojump_clock: trio.testing.MockClock) -> None:
    async with play(Stall(1, "n1", for_s=3, stall_s=0.4, every_s=1)) as (cluster, _):
        seen = []
        for at_s in (1, 1.5, 2, 2.5, 3.2, 3.6, 4):
            await at(cluster, at_s)
            seen.append(cluster.nodes["n1"].is_paused)
        assert seen == [True, False, True, False, True, False, False]


async def test_two_partitions_that_share_a_link_keep_it_cut_until_both_have_ended(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    one = Partition(1, (("n0",), ("n1", "n2")), for_s=4)
    two = Partition(3, (("n0",), ("n1",)), for_s=6, one_way=True)
    async with play(one, two) as (cluster, _):
        await at(cluster, 3)
        assert not any(is_open(cluster, *pair) for pair in (("n0", "n1"), ("n1", "n0"), ("n2", "n0")))
        await at(cluster, 5)
        assert [is_open(cluster, *pair) for pair in (("n0", "n1"), ("n1", "n0"), ("n2", "n0"))] == [
            False,
            True,
            True,
        ]
        await at(cluster, 9)
        assert is_open(cluster, "n0", "n1")


def test_a_partition_severs_what_it_says() -> None:
    both = severed(Partition(1, (("n0",), ("n1",), ("n2",)), for_s=1))
    assert len(both) == len(set(both)) == 6
    assert severed(Partition(1, (("n0",), ("n1", "n2")), for_s=1, one_way=True)) == [
        ("n0", "n1"),
        ("n0", "n2"),
    ]


async def test_a_slow_link_adds_to_what_the_script_says_and_the_later_of_two_counts(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    faults = (
        SlowLink(1, "n0", for_s=6, latency_ms=100),
        SlowLink(2, "n0", for_s=2, other="n1", latency_ms=30),
    )
    async with play(*faults, links=(LinkSpec(latency_ms=5),)) as (cluster, _):
        await at(cluster, 1)
        assert [latency_ms(cluster, "n0", other) for other in ("n1", "n2")] == [105, 105]
        assert latency_ms(cluster, "n1", "n2") == 5
        await at(cluster, 2)
        assert [latency_ms(cluster, "n1", "n0"), latency_ms(cluster, "n2", "n0")] == [35, 105]
        await at(cluster, 4)
        assert latency_ms(cluster, "n0", "n1") == 105
        await at(cluster, 7)
        assert [latency_ms(cluster, "n0", other) for other in ("n1", "n2")] == [5, 5]


async def test_a_machine_stays_cut_off_when_it_comes_back_as_somebody_else(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    faults = (Crash(1, "n2", restart_s=1, disk="lost"), Partition(2, (("n2",), ("n0",)), for_s=20))
    async with play(*faults) as (cluster, _):
        before = cluster.nodes["n2"].peer
        await at(cluster, 8)
        assert cluster.nodes["n2"].peer != before
        assert not is_open(cluster, "n2", "n0")
        await at(cluster, 22)
        assert is_open(cluster, "n2", "n0")


async def test_disks_are_full_and_slow_for_as_long_as_said(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    faults = (
        DiskFull(1, "n1", 2),
        DiskFull(2, "n1", 3),
        Crash(2, "n1", restart_s=0.5),
        DiskSlow(6, "n2", for_s=4, write_s=0.3),
    )
    async with play(*faults) as (cluster, _):
        await at(cluster, 4)
        assert cluster.nodes["n1"].disk.is_full
        await at(cluster, 5)
        assert not cluster.nodes["n1"].disk.is_full
        await at(cluster, 6.5)
        node = cluster.nodes["n2"]
        node.disk.write("mine", b"1")
        node.disk.write("mine", b"2")
        assert node.is_paused, "whoever writes waits"
        await trio.sleep(0.59)
        assert node.is_paused, "twice as long for two"
        await trio.sleep(0.02)
        assert not node.is_paused
        await at(cluster, 10)
        node.disk.write("mine", b"3")
        assert not node.is_paused


async def test_workers_hang_crash_and_are_slow(play: Play, autojump_clock: trio.testing.MockClock) -> None:
    faults = (
        WorkerSlow(1, "n1", for_s=10, factor=2),
        WorkerSlow(2, "n1", for_s=2, factor=3),
        Crash(5, "n1", restart_s=1),
        WorkerHang(1, "n2", for_s=2),
        WorkerHang(2, "n2", for_s=4),
        WorkerCrash(8, "n2"),
    )
    async with play(*faults) as (cluster, _):
        worker = cluster.nodes["n1"].worker
        await at(cluster, 3)
        assert worker._processor.factor == 6
        await at(cluster, 4)
        assert worker._processor.factor == 2
        await at(cluster, 9)
        assert cluster.nodes["n1"].worker is not worker
        assert cluster.nodes["n1"].worker._processor.factor == 2, "it is the machine that is slow"
        assert cluster.nodes["n2"].worker.pid is not None
        await at(cluster, 11)
        assert cluster.nodes["n1"].worker._processor.factor == 1


async def test_a_hang_outlasts_a_shorter_one(play: Play, autojump_clock: trio.testing.MockClock) -> None:
    async with play(WorkerHang(1, "n2", for_s=2), WorkerHang(2, "n2", for_s=4)) as (cluster, _):
        done = trio.Event()

        async def compute() -> None:
            await cluster.nodes["n2"].worker.measure_layer(None)  # type: ignore[arg-type]  # the shape has no say here
            done.set()

        await at(cluster, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(compute)
            await at(cluster, 5)
            assert not done.is_set()
            await at(cluster, 6.2)
            assert done.is_set()


async def test_clocks_are_set_right_when_all_has_settled(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(ClockJump(1, "n1", by_s=5, drift_ppm=100), settled_at_s=10) as (cluster, _):
        one, other = cluster.nodes["n1"].clock, cluster.nodes["n0"].clock
        await at(cluster, 6)
        assert one.wall() - other.wall() == pytest.approx(5.0005, abs=1e-5)
        await at(cluster, 10)
        assert one.wall() == other.wall()
        await at(cluster, 20)
        assert one.wall() == other.wall()


async def test_everything_that_lasts_ends_when_all_has_settled(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    lasting = 50.0
    faults = (
        Partition(1, (("n0",), ("n1",)), lasting),
        SlowLink(1, "n2", lasting, latency_ms=50),
        DiskFull(1, "n1", lasting),
        WorkerSlow(1, "n1", lasting, factor=9),
        Lie(1, "n2", lasting, about="health"),
        Pause(2, "n0", lasting),
        Stall(2, "n1", lasting, 0.5, 1),
    )
    async with play(*faults, settled_at_s=5) as (cluster, faulting):
        await at(cluster, 4)
        assert cluster.nodes["n2"].conduct.lies == {"health"}
        await at(cluster, 5)
        assert is_open(cluster, "n0", "n1")
        assert latency_ms(cluster, "n2", "n1") == 1
        assert not cluster.nodes["n1"].disk.is_full
        assert cluster.nodes["n1"].worker._processor.factor == 1
        assert cluster.nodes["n2"].conduct.lies == frozenset()
        assert not any(node.is_paused for node in cluster.nodes.values())
        assert {round(mark.until_s - cluster.started_at_s, 1) for mark in faulting.marks} == {5.0}


async def test_a_reset_ends_the_connections_of_a_pair_only(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Reset(1, "n0", "n1")) as (cluster, _):
        network = cluster.nodes["n0"].network
        assert network is not None
        peers = {other: cluster.nodes[other].peer for other in ("n1", "n2")}
        await trio.sleep_until(cluster.started_at_s + 1)
        await trio.testing.wait_all_tasks_blocked(0)
        connected = {info.peer for info in network.connections()}
        assert peers["n2"] in connected
        assert peers["n1"] not in connected


async def test_an_upgraded_node_comes_back_with_another_minor(
    play: Play, autojump_clock: trio.testing.MockClock
) -> None:
    async with play(Upgrade(1, "n1", minor=2)) as (cluster, _):
        await at(cluster, 15)
        assert cluster.nodes["n1"].is_up
        assert cluster.nodes["n1"].conduct.minor == 2
        assert cluster.nodes["n0"].conduct.minor == MINOR


def test_marks_are_read_by_people() -> None:
    assert [
        described(Crash(1, "n1", silent=True, disk="rolled_back")),
        described(Partition(1, (("n0", "n1"), ("n2",)), 1)),
        described(SlowLink(1, "n0", 1)),
        described(WorkerHang(1, "n2", 1)),
        described(Lie(1, "n2", 1, "epoch")),
    ] == [
        "power fails at n1, disk rolled back",
        "n0+n1 | n2",
        "slow link n0 - all",
        "worker hang of n2",
        "n2 lies: epoch",
    ]


async def told(folder: Path, *faults: Fault) -> tuple[Cluster, Clients]:
    """What two clients of n0 hear in 25 s."""
    nodes = tuple(NodeSpec(f"n{index}") for index in range(3))
    requests = tuple(Request(1.0 + index, "n0", "once upon a time", 40) for index in range(2))
    script = Script("test", 1, 25.0, nodes, faults=faults, requests=requests)
    async with trio.open_nursery() as nursery:
        cluster = Cluster(script, folder, Trace(), nursery)
        await cluster.start()
        clients = Clients(cluster)
        nursery.start_soon(Faulting(cluster).run)
        nursery.start_soon(clients.run)
        await at(cluster, 25)
        nursery.cancel_scope.cancel()
    assert cluster.panics == []
    return cluster, clients


async def test_altered_activations_change_what_people_read(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    _, clients = await told(tmp_path, Lie(0.1, "n1", 50, "activations"), Lie(0.1, "n2", 50, "activations"))
    assert [client.status for client in clients.all] == ["finished", "finished"]
    assert not any(client.is_exact for client in clients.all)


async def test_stale_epochs_and_praise_change_nothing_that_people_read(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    lies = [Lie(0.1, node, 50, about) for node in ("n0", "n1", "n2") for about in ("epoch", "health")]  # type: ignore[arg-type]
    _, clients = await told(tmp_path, *lies, Crash(2.5, "n2", restart_s=3))
    assert [client.status for client in clients.all] == ["finished", "finished"]
    assert all(client.is_exact and client.endings == 1 for client in clients.all)


async def test_rows_that_are_withheld_do_not_come(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    _, clients = await told(tmp_path, Lie(0.1, "n1", 50, "withhold"), Lie(0.1, "n2", 50, "withhold"))
    assert not any(client.tokens for client in clients.all)


async def test_whoever_praises_itself_is_believed(play: Play, autojump_clock: trio.testing.MockClock) -> None:
    async with play(Lie(0.1, "n1", 50, "health")) as (cluster, _):
        await at(cluster, 12)
        daemon = cluster.nodes["n0"].daemon
        assert daemon is not None
        told = {node.name: daemon.picture.health(node.peer) for node in cluster.nodes.values() if node.peer}
        free_bytes = {name: digest.memory_free_bytes for name, digest in told.items() if digest}
        assert free_bytes["n1"] > 1 << 39 > free_bytes["n2"] > 0
