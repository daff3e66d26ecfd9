"""The detector on virtual networks: what a daemon sees of the others' ends, silences and returns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
import trio

from mesh.liveness.detector import MemberAlive, MemberDead, MemberLeft, State
from mesh.liveness.watch import Watch
from mesh.rpc import ask, dial
from protocols import limits, streams
from protocols.errors import Disconnected
from protocols.ids import PeerId
from protocols.liveness import WATCH_CODEC, Alive, Inquire, Ping, Pong, Reached, Suspect
from protocols.streams import Plane
from simulations.network.internet import NETWORK_ID, VirtualWorld, peer_id
from tests.mesh.liveness.watched import Boards, WatchedNode, until_state
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

KILL_S, STOP_S = 2.0, 5.0


def made(count: int) -> list[WatchedNode]:
    boards = Boards(VirtualWorld(latency_s=0.002))
    return [WatchedNode(boards, number) for number in range(1, count + 1)]


@asynccontextmanager
async def watching(*nodes: WatchedNode) -> AsyncIterator[list[Watch]]:
    """All but the last of `nodes` run; all know of all."""
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(node.up(nodes)) for node in nodes[:-1]]
        await all_hold(watches, [node.peer for node in nodes[:-1]], State.ALIVE, within_s=5.0)
        yield watches


async def all_hold(watches: list[Watch], peers: list[PeerId], state: State, within_s: float) -> None:
    async with trio.open_nursery() as nursery:
        for watch in watches:
            for peer in peers:
                if watch._network.peer != peer:
                    nursery.start_soon(partial(until_state, watch, peer, state, within_s))


@pytest.mark.parametrize("count", [2, 3, 6])
async def test_a_killed_node_is_dead_to_all_within_two_seconds_and_back_at_once_without_a_ghost(
    count: int,
) -> None:
    nodes = made(count)
    *_, mortal = nodes
    async with watching(*nodes) as watches:
        async with mortal.up(nodes) as watch:
            await all_hold([*watches, watch], [node.peer for node in nodes], State.ALIVE, within_s=5.0)
            await trio.sleep(3.3)
            first = watch.incarnation
        await all_hold(watches, [mortal.peer], State.DEAD, within_s=KILL_S)
        await trio.sleep(60.0)
        assert {watch.state(mortal.peer) for watch in watches} == {State.DEAD}
        async with mortal.up(nodes) as watch:
            await all_hold(watches, [mortal.peer], State.ALIVE, within_s=1.0)
            assert watch.incarnation > first
            with watches[0].subscribe() as changes, trio.move_on_after(120.0):
                async for change in changes:
                    pytest.fail(f"nothing has happened, and yet {change}")


async def test_a_cut_off_node_is_dead_to_all_within_five_seconds_and_alive_when_the_cable_is_back() -> None:
    nodes = made(6)
    silent = nodes[2]
    async with watching(*nodes, nodes[-1]) as watches:
        rest = [watch for watch in watches if watch is not watches[2]]
        await trio.sleep(7.7)
        silent.boards.world.silence(silent.peer)
        await all_hold(rest, [silent.peer], State.DEAD, within_s=STOP_S)
        before = watches[2].incarnation
        await trio.sleep(60.0)
        silent.boards.world.heal()
        await all_hold(watches, [node.peer for node in nodes], State.ALIVE, within_s=10.0)
        assert watches[2].incarnation > before


async def test_one_broken_link_makes_nobody_suspect() -> None:
    nodes = made(5)
    async with watching(*nodes, nodes[-1]) as watches, AsyncExitStack() as stack:
        await trio.sleep(2.2)
        feeds = [stack.enter_context(watch.subscribe()) for watch in watches]
        nodes[0].boards.world.cut(nodes[0].peer, nodes[1].peer)
        await trio.sleep(60.0)
        for feed in feeds:
            with trio.move_on_after(0.0) as scope:
                pytest.fail(f"a link is no node: {await anext(feed)}")
            assert scope.cancelled_caught


async def test_who_leaves_is_gone_at_once_and_not_dead() -> None:
    nodes = made(4)
    async with watching(*nodes) as watches:
        async with nodes[-1].up(nodes) as watch:
            await all_hold(watches, [nodes[-1].peer], State.ALIVE, within_s=5.0)
            await trio.sleep(1.0)
            with watches[0].subscribe() as changes:
                await watch.leave()
                assert await anext(changes) == MemberLeft(nodes[-1].peer, watch.incarnation)
        await trio.sleep(30.0)
        assert {watch.state(nodes[-1].peer) for watch in watches} == {State.LEFT}


async def test_a_newcomer_learns_who_is_dead_and_not_that_it_lives() -> None:
    nodes = made(6)
    async with AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(node.up(nodes)) for node in nodes[:4]]
        async with nodes[4].up(nodes):
            await all_hold(watches, [nodes[4].peer], State.ALIVE, within_s=5.0)
            await trio.sleep(1.0)
        await all_hold(watches, [nodes[4].peer], State.DEAD, within_s=KILL_S)
        await trio.sleep(1.5)
        newcomer = await stack.enter_async_context(nodes[5].up(nodes))
        await trio.sleep(10.0)
        assert newcomer.state(nodes[4].peer) is State.DEAD
        assert {newcomer.state(node.peer) for node in nodes[:4]} == {State.ALIVE}


async def test_what_was_heard_before_its_author_was_a_member_counts_from_then_on() -> None:
    nodes = made(3)
    early, late = nodes[1].peer, peer_id(99)
    async with watching(*nodes, nodes[-1]) as watches:
        nodes[0].boards.said[late, ""] = Alive(8, bytes(8))
        watches[0]._hear(late, Alive(8, bytes(8)))
        assert watches[0].state(late) is State.DEAD
        watches[0].set_candidates([early, nodes[2].peer, late])
        assert watches[0].state(late) is State.ALIVE
        assert watches[0].state(early) is State.ALIVE


async def test_a_full_disk_stops_nothing() -> None:
    nodes = made(3)
    nodes[-1].disk.is_full = True
    async with watching(*nodes) as watches:
        for _ in range(2):
            async with nodes[-1].up(nodes):
                await all_hold(watches, [nodes[-1].peer], State.ALIVE, within_s=5.0)
            await all_hold(watches, [nodes[-1].peer], State.DEAD, within_s=KILL_S)


async def test_events_say_whom_and_since_which_incarnation() -> None:
    nodes = made(3)
    async with watching(*nodes) as watches:
        await trio.sleep(1.0)
        with watches[0].subscribe() as changes:
            async with nodes[-1].up(nodes) as watch:
                assert await anext(changes) == MemberAlive(nodes[-1].peer, 0)
                await trio.sleep(3.0)
            change = await anext(changes)
            while not isinstance(change, MemberDead):
                change = await anext(changes)
            assert change == MemberDead(nodes[-1].peer, watch.incarnation)


# What others ask ---------------------------------------------------------------------------------------------------------


async def test_a_slandered_node_objects_and_stays_alive() -> None:
    nodes = made(4)
    async with watching(*nodes, nodes[-1]) as watches:
        before = watches[0].incarnation
        async with dial(nodes[1].network, nodes[0].peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
            await channel.send(Suspect(nodes[0].peer, before))
        await trio.sleep(1.0)
        assert watches[0].incarnation == before + 1
        assert {watch.state(nodes[0].peer) for watch in watches[1:]} == {State.ALIVE}


async def test_an_inquiry_is_answered_for_members_that_are_connected_and_makes_nobody_dial() -> None:
    nodes = made(4)
    stranger = peer_id(99)
    async with watching(*nodes, nodes[-1]):
        net = nodes[0].network
        async with dial(net, nodes[1].peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
            assert await ask(channel, Inquire(nodes[2].peer, 7), Reached) == Reached(7, True)
            assert await ask(channel, Inquire(stranger, 8), Reached) == Reached(8, False)
            assert await ask(channel, Ping(3), Pong) == Pong(3)
            nodes[0].boards.world.cut(nodes[1].peer, nodes[2].peer)
            assert await ask(channel, Inquire(nodes[2].peer, 9), Reached) == Reached(9, False)


@pytest.mark.parametrize("message", [Reached(1, True), Pong(1)])
async def test_an_answer_without_a_question_ends_the_stream(message: Reached | Pong) -> None:
    nodes = made(2)
    async with watching(*nodes, nodes[-1]):
        async with dial(nodes[0].network, nodes[1].peer, streams.PING, WATCH_CODEC, NETWORK_ID) as channel:
            await channel.send(message)
            with pytest.raises(Disconnected):
                await channel.receive()
        assert nodes[1].network.faults["Malformed"] == 1


async def test_what_a_stranger_says_on_the_board_is_nothing() -> None:
    nodes = made(2)
    stranger = peer_id(99)
    async with watching(*nodes, nodes[-1]) as watches:
        watches[0]._hear(stranger, Alive(5, bytes(8)))
        watches[0]._hear(nodes[1].peer, Suspect(stranger, 5))
        assert stranger not in watches[0].states()
        assert watches[0].state(stranger) is State.DEAD


async def test_an_idle_node_pings_its_monitors_subjects_and_nobody_else() -> None:
    nodes = made(9)
    async with watching(*nodes, nodes[-1]) as watches:
        await trio.sleep(20.0)
        for watch in watches:
            assert len(watch._pingers) == limits.MONITORS
        planes = {info.plane for info in nodes[0].network.connections()}
        assert planes == {Plane.CONTROL}
