"""The life of a machine: whatever ends its process, what is left is what a real end would leave."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from mesh.liveness.detector import State
from node.daemon import Daemon
from protocols import limits
from simulations.cluster.node import GIVE_UP_S, RETRY_S
from simulations.cluster.process import Phase
from simulations.machine.disk import Remains
from tests.simulations.cluster.played import Stage, asking, play, script

# Crashes -------------------------------------------------------------------------------------------------------------


def test_a_crash_says_no_goodbye_and_a_leave_does() -> None:
    async def act(stage: Stage) -> None:
        crashed_at_s = trio.current_time()
        await stage["n1"].crash()
        assert stage["n1"].down_at_s == crashed_at_s
        await trio.sleep(limits.LEAVE_S)
        assert stage.state("n0", "n1") is not State.LEFT
        await stage.until(lambda: stage.state("n0", "n1") is State.DEAD)
        await stage["n2"].leave()
        await trio.sleep(0.01)
        assert stage.state("n0", "n2") is State.LEFT

    play(script(), act)


def test_nothing_that_a_dying_process_writes_reaches_the_disk_or_the_network() -> None:
    async def act(stage: Stage) -> None:
        node = stage["n1"]
        process = node.process
        assert process is not None
        before, delivered = dict(node.disk.files), stage.cluster.trace.events
        await node.crash()
        process.disk.write("last", b"words")
        process.disk.write("network.json", b"")
        network = process.body.network if process.body else None
        assert network is not None
        assert not network.connections()
        await trio.sleep(0)
        assert process.phase is Phase.GONE
        await trio.sleep(2 * limits.LEAVE_S)
        assert node.disk.files == before
        assert stage.cluster.trace.events > delivered  # the others go on

    play(script(), act)


@pytest.mark.parametrize("silent", [False, True])
def test_only_a_silent_crash_is_not_seen_at_once(silent: bool) -> None:
    async def act(stage: Stage) -> None:
        peer = stage["n1"].peer
        daemon = stage["n0"].daemon
        assert daemon is not None
        await stage["n1"].crash(silent=silent)
        await trio.sleep(0.1)
        there = [each for each in stage["n0"].network.connections() if each.peer == peer]  # type: ignore[union-attr]
        assert bool(there) is silent
        await stage.until(lambda: stage.state("n0", "n1") is State.DEAD)
        assert await stage.cluster.restart(stage["n1"])
        await stage.until(lambda: stage.state("n0", "n1") is State.ALIVE)

    play(script(), act)


def test_crashes_in_the_midst_of_anything_leave_a_machine_that_starts() -> None:
    async def mid_start(stage: Stage) -> None:
        await stage["n1"].crash(disk="lost")  # so that it has to be let in, which takes round trips
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.cluster.restart, stage["n1"])
            await trio.sleep(0.002)
            assert stage["n1"].process is not None
            assert stage["n1"].process.phase is Phase.STARTING
            await stage["n1"].crash()
        assert not stage["n1"].is_on

    async def paused(stage: Stage) -> None:
        stage["n1"].pause()
        await trio.sleep(1)
        await stage["n1"].crash()
        assert not stage["n1"].is_paused

    async def leaving(stage: Stage) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage["n1"].leave)
            while not stage["n1"].is_leaving:  # which takes no millisecond if nobody has to finish
                await trio.lowlevel.checkpoint()
            await stage["n1"].crash()

    async def twice(stage: Stage) -> None:
        await stage["n1"].crash()
        await stage["n1"].crash()
        assert await stage.cluster.restart(stage["n1"])
        await stage["n1"].crash()

    async def act(stage: Stage) -> None:
        for case in (mid_start, paused, leaving, twice):
            await case(stage)
            assert not stage["n1"].is_up
            assert await stage.cluster.restart(stage["n1"])  # perhaps while the old process is still ending
            assert await stage.cluster.restart(stage["n1"])  # which changes nothing
            await stage.until(lambda: stage.state("n0", "n1") is State.ALIVE)
            assert len(stage.cluster.internet.listeners) == 2 * 3
        assert stage["n1"].starts == 7

    play(script(), act)


@pytest.mark.parametrize("disk", ["kept", "lost", "torn", "rolled_back"])
def test_a_machine_comes_back_whatever_its_disk_is_like(disk: Remains) -> None:
    async def act(stage: Stage) -> None:
        node = stage["n2"]
        before = node.peer
        await trio.sleep(20)
        await node.crash(disk=disk)
        await trio.sleep(1)
        assert await stage.cluster.restart(node)
        assert (node.peer == before) is (disk != "lost")
        assert node.peer is not None
        assert before is not None
        assert stage.cluster.node_of(node.peer) == stage.cluster.node_of(before) == "n2"
        await stage.until(lambda: stage.state("n0", "n2") is State.ALIVE)

    play(script(), act)


# Starts that fail ----------------------------------------------------------------------------------------------------


def test_a_start_that_fails_is_retried_until_it_succeeds() -> None:
    async def act(stage: Stage) -> None:
        await stage["n1"].crash(disk="lost")
        for name in ("n0", "n2"):
            await stage[name].crash()
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.cluster.restart, stage["n1"])
            await trio.sleep(4.5 * RETRY_S)
            assert stage["n1"].is_on
            assert not stage["n1"].is_up
            assert await stage.cluster.restart(stage["n0"])
        assert stage["n1"].is_up
        assert trio.current_time() - began_s < 6 * RETRY_S
        assert stage.noted("n1").count("does not stay up: nobody is up who could make an invite") == 5

    play(script(), act)


def test_a_machine_with_a_full_disk_does_not_start_and_is_given_up_in_the_end() -> None:
    async def act(stage: Stage) -> None:
        node = stage["n1"]
        await node.crash(disk="lost")
        node.disk.is_full = True
        began_s = trio.current_time()
        assert not await stage.cluster.restart(node)
        assert GIVE_UP_S <= trio.current_time() - began_s <= GIVE_UP_S + 2 * RETRY_S
        assert stage.noted("n1")[-2:] == ["is given up", "does not come up"]
        node.disk.is_full = False
        assert await stage.cluster.restart(node)

    play(script(), act)


def test_whoever_waits_to_be_retried_can_be_crashed_and_left() -> None:
    async def act(stage: Stage) -> None:
        node = stage["n1"]
        await node.crash(disk="lost")
        node.disk.is_full = True
        ends: list[Callable[[], Awaitable[None]]] = [node.crash, node.leave]
        for end in ends:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.cluster.restart, node)
                await trio.sleep(0.5 * RETRY_S)
                await end()
            assert not node.is_on

    play(script(), act)


# Bugs ----------------------------------------------------------------------------------------------------------------


def test_a_machine_is_off_the_moment_it_has_left_and_can_be_started_again() -> None:
    async def act(stage: Stage) -> None:
        node = stage["n1"]
        await node.leave()
        assert not node.is_on
        assert await stage.cluster.restart(node)
        assert node.starts == 2

    play(script(), act)


def test_a_daemon_that_ends_by_an_exception_is_recorded_and_started_again() -> None:
    async def bug(_daemon: Daemon) -> None:
        raise ZeroDivisionError("a bug of the product")

    async def act(stage: Stage) -> None:
        process = stage["n1"].process
        assert process is not None
        assert process.ask(bug)
        await stage.until(lambda: process.phase is Phase.GONE)
        (panic,) = stage.cluster.panics
        assert (panic.node, panic.error[:23]) == ("n1", "ZeroDivisionError in te")
        assert "a bug of the product" in panic.traceback
        await trio.sleep(0.1)
        assert stage["n1"].down_at_s is not None
        await stage.until(lambda: stage["n1"].is_up)
        assert stage["n1"].down_at_s is None
        assert stage["n1"].starts == 2

    play(script(), act, panics=1)


def test_what_fails_in_a_killed_process_is_no_bug() -> None:
    async def fail_late(_daemon: Daemon) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError("too late to matter")

    async def act(stage: Stage) -> None:
        process = stage["n1"].process
        assert process is not None
        assert process.ask(fail_late)
        await stage["n1"].crash()
        await trio.sleep(5)
        assert not stage["n1"].is_on

    play(script(), act)


def test_a_daemon_that_fails_while_it_leaves_is_recorded_and_stays_down() -> None:
    async def bug(_daemon: Daemon) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError("a bug of the product")

    async def act(stage: Stage) -> None:
        process = stage["n1"].process
        assert process is not None
        assert process.ask(bug)
        await trio.sleep(1)
        await stage["n1"].leave()
        await stage.until(lambda: not stage["n1"].is_on)
        assert [panic.node for panic in stage.cluster.panics] == ["n1"]
        await trio.sleep(2 * RETRY_S)
        assert not stage["n1"].is_on

    play(script(), act, panics=1)


# Pauses --------------------------------------------------------------------------------------------------------------


def test_a_stopped_daemon_does_nothing_and_its_worker_goes_on() -> None:
    async def act(stage: Stage) -> None:
        node = stage["n0"]
        await stage.until(lambda: bool(stage.clients.all) and len(stage.client.tokens) >= 5)
        node.pause()
        node.pause()
        node.resume()
        assert node.is_paused
        heard = len(stage.client.events)
        await trio.sleep(1.0)
        assert len(stage.client.events) == heard
        assert node.worker.waiting() == 0
        node.resume()
        node.resume()
        assert not node.is_paused
        await stage.until(lambda: stage.client.status is not None)
        assert stage.client.status == "finished"
        assert stage.client.is_exact

    play(script(3, asking("n0")), act)


def test_a_run_may_end_while_nodes_are_stopped() -> None:
    async def act(stage: Stage) -> None:
        stage["n1"].pause()
        await trio.sleep(5)

    play(script(), act)
