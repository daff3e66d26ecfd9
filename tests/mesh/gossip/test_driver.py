"""The driver: links between real machines over virtual networks, and once over libp2p."""

from __future__ import annotations

import itertools

import pytest
import trio

from mesh.gossip.driver import Gossip
from mesh.host.libp2p_network import Libp2pNetwork
from protocols import limits, streams
from protocols.errors import LocalFault, Unavailable
from protocols.frame import encode_frame
from protocols.gossip import GOSSIP_CODEC, Item, Join, Push, Topic
from protocols.hello import encode_hello
from protocols.streams import Plane
from simulations.determinism import run_deterministically
from simulations.network.internet import NETWORK_ID, VirtualNetwork, VirtualWorld
from tests.contracts.talk import contact_of, introduce, running
from tests.mesh.gossip.meshes import push_of
from tests.mesh.gossip.rig import gossip_on, gossiping, identity, linked, until
from tests.virtual_time import ON_VIRTUAL_TIME

LOOPBACK = dict.fromkeys(Plane, ("/ip4/127.0.0.1/tcp/0",))


def networks(world: VirtualWorld, count: int) -> list[VirtualNetwork]:
    return [world.network(identity(number).peer) for number in range(1, count + 1)]


def hears(node: Gossip, key: str) -> bool:
    return any(heard.key == key for heard in node.items(Topic.HEALTH))


@ON_VIRTUAL_TIME
class TestOnTheVirtualNetwork:
    async def test_what_one_says_all_hear_in_a_moment(self) -> None:
        async with gossiping(*networks(VirtualWorld(0.01), 12)) as nodes:
            await linked(*nodes)
            nodes[0].publish(Topic.HEALTH, "k", b"fine", 30)
            assert await until(lambda: all(hears(node, "k") for node in nodes), 2) < 0.5
            (heard,) = nodes[7].items(Topic.HEALTH)
            assert (heard.author, heard.topic, heard.body) == (identity(1).peer, Topic.HEALTH, b"fine")

    async def test_subscribers_are_told_news_once_and_withdrawals(self) -> None:
        async with gossiping(*networks(VirtualWorld(), 4)) as nodes:
            await linked(*nodes)
            with nodes[2].subscribe(Topic.CLAIMS) as news, trio.fail_after(2):
                nodes[0].publish(Topic.CLAIMS, "range", b"0-4", 60)
                first = await anext(news)
                nodes[0].publish(Topic.CLAIMS, "range", b"", 60)
                second = await anext(news)
            assert [first.body, second.body] == [b"0-4", b""]
            assert second.sequence > first.sequence
            assert not nodes[2].items(Topic.CLAIMS)

    async def test_a_newcomer_hears_what_was_said_before_it_came(self) -> None:
        everyone = networks(VirtualWorld(), 4)
        async with gossiping(*everyone[:3]) as nodes, everyone[3].run(), trio.open_nursery() as nursery:
            await linked(*nodes)
            nodes[0].publish(Topic.HEALTH, "k", b"fine", 600)
            await until(lambda: all(hears(node, "k") for node in nodes), 2)
            introduce(*everyone)
            newcomer = gossip_on(everyone[3], 4)
            await nursery.start(newcomer.run)
            newcomer.set_candidates([network.peer for network in everyone])
            assert await until(lambda: hears(newcomer, "k"), 2) < 0.1
            nursery.cancel_scope.cancel()

    async def test_readers_of_the_news_keep_up_with_all_that_a_newcomer_catches_up_with(self) -> None:
        everyone = networks(VirtualWorld(), 4)
        async with gossiping(*everyone[:3]) as nodes, everyone[3].run(), trio.open_nursery() as nursery:
            await linked(*nodes)
            for node in nodes:
                for number in range(1000):
                    node.publish(Topic.OBSERVATIONS, str(number), b"x", 600)
            await until(lambda: all(len(node.items(Topic.OBSERVATIONS)) == 3000 for node in nodes), 5)
            introduce(*everyone)
            newcomer = gossip_on(everyone[3], 4)
            heard = 0
            with newcomer.subscribe(Topic.OBSERVATIONS) as news, trio.fail_after(5):
                await nursery.start(newcomer.run)
                newcomer.set_candidates([network.peer for network in everyone])
                while heard < 3000:
                    await anext(news)
                    heard += 1
            nursery.cancel_scope.cancel()

    async def test_a_lost_neighbour_is_replaced_within_a_second(self) -> None:
        world = VirtualWorld()
        everyone = networks(world, 12)
        async with gossiping(*everyone) as nodes:
            await trio.sleep(1)
            gone = nodes[0].neighbours[0]
            before = len(nodes[0].neighbours)
            world.kill(gone)
            await until(lambda: gone not in nodes[0].neighbours, 1)
            wanted = min(before, limits.GOSSIP_ACTIVE)
            await until(lambda: len(nodes[0].neighbours) >= wanted, 1)

    async def test_two_that_open_at_the_same_time_end_with_one_link(self) -> None:
        async with gossiping(*networks(VirtualWorld(0.05), 2)) as nodes:
            await trio.sleep(2)
            assert [len(node.neighbours) for node in nodes] == [1, 1]
            for node, key in zip(nodes, "ab", strict=True):
                node.publish(Topic.HEALTH, key, b"x", 30)
            await until(lambda: all(hears(node, key) for node in nodes for key in "ab"), 1)

    async def test_a_peer_that_reads_nothing_costs_its_link_and_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "GOSSIP_LINK_BYTES_MAX", 64 * 1024)
        world = VirtualWorld()
        everyone = networks(world, 3)
        async with running(*everyone), trio.open_nursery() as nursery:
            introduce(*everyone)
            deaf = everyone[2]
            nodes = [gossip_on(network, number) for number, network in enumerate(everyone[:2], 1)]
            for node in nodes:
                await nursery.start(node.run)
                node.set_candidates([network.peer for network in everyone[:2]])
            stream = await deaf.open_stream(everyone[0].peer, streams.GOSSIP)
            await stream.send(encode_frame(encode_hello(NETWORK_ID), 1024))
            await stream.send(encode_frame(GOSSIP_CODEC.encode(Join(urgent=True)), 1024))
            await until(lambda: deaf.peer in nodes[0].neighbours, 2)
            for number in range(1000):
                nodes[0].publish(Topic.HEALTH, f"{number % 4}", bytes(20_000), 600)
                await trio.sleep(0.01)
                if deaf.peer not in nodes[0].neighbours:
                    break
            assert nodes[0].neighbours == (everyone[1].peer,)
            nodes[0].publish(Topic.HEALTH, "after", b"x", 30)
            await until(lambda: hears(nodes[1], "after"), 2)
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize(
        "sent",
        [
            GOSSIP_CODEC.encode(Push(1, b"no bundle", bytes(64))),
            b"\xff\xff\xff",
            GOSSIP_CODEC.encode(Join(urgent=False))[:-1],
        ],
        ids=["no bundle", "no MessagePack", "half a message"],
    )
    async def test_a_peer_that_sends_what_is_no_gossip_is_cut_off_for_a_while(
        self, sent: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "GOSSIP_CUT_OFF_S", 5.0)
        everyone = networks(VirtualWorld(), 2)
        async with running(*everyone), trio.open_nursery() as nursery:
            introduce(*everyone)
            node = gossip_on(everyone[0], 1)
            await nursery.start(node.run)

            async def join(*messages: bytes) -> bool:
                stream = await everyone[1].open_stream(everyone[0].peer, streams.GOSSIP)
                parts = [encode_hello(NETWORK_ID), GOSSIP_CODEC.encode(Join(urgent=True)), *messages]
                for part in parts:
                    await stream.send(encode_frame(part, 1024))
                await trio.sleep(0.1)
                return everyone[1].peer in node.neighbours

            assert not await join(sent)
            assert node.counts["cut_off"] == 1
            assert not await join()
            await trio.sleep(limits.GOSSIP_CUT_OFF_S)
            assert await join()
            nursery.cancel_scope.cancel()

    async def test_two_that_do_not_let_each_other_in_are_linked_soon_after_they_do(self) -> None:
        everyone = networks(VirtualWorld(), 2)
        async with running(*everyone), trio.open_nursery() as nursery:
            for network, other in itertools.permutations(everyone):
                network.learn(contact_of(other))
            nodes = [gossip_on(network, number) for number, network in enumerate(everyone, 1)]
            for node in nodes:
                await nursery.start(node.run)
                node.set_candidates([network.peer for network in everyone])
            await trio.sleep(10)
            assert not any(node.neighbours for node in nodes)
            introduce(*everyone)
            await until(lambda: all(node.neighbours for node in nodes), 2 * limits.GOSSIP_AVOID_S)
            nursery.cancel_scope.cancel()

    async def test_forged_bundles_are_refused_and_their_relay_is_cut_off(self) -> None:
        everyone = networks(VirtualWorld(), 2)
        async with running(*everyone), trio.open_nursery() as nursery:
            introduce(*everyone)
            node = gossip_on(everyone[0], 1)
            await nursery.start(node.run)
            stream = await everyone[1].open_stream(everyone[0].peer, streams.GOSSIP)
            forged = [
                push_of(identity(3).peer, 1_800_000_000_000 + number, Item(2, "k", b"x", 60))
                for number in range(20)
            ]
            await stream.send(encode_frame(encode_hello(NETWORK_ID), 1024))
            for message in (Join(urgent=True), *forged):
                await stream.send(encode_frame(GOSSIP_CODEC.encode(message), 1024))
            await until(lambda: node.counts["cut_off"] == 1, 2)
            assert node.counts["forged"] == limits.GOSSIP_FORGED_PER_MIN + 1
            assert not node.items(Topic.HEALTH)
            nursery.cancel_scope.cancel()

    async def test_one_who_opens_a_stream_and_says_nothing_is_let_go(self) -> None:
        everyone = networks(VirtualWorld(), 2)
        async with running(*everyone), trio.open_nursery() as nursery:
            introduce(*everyone)
            node = gossip_on(everyone[0], 1)
            await nursery.start(node.run)
            stream = await everyone[1].open_stream(everyone[0].peer, streams.GOSSIP)
            await stream.send(encode_frame(encode_hello(NETWORK_ID), 1024))
            with pytest.raises(Unavailable), trio.fail_after(2 * limits.HELLO_S):
                await stream.receive()
            nursery.cancel_scope.cancel()

    async def test_more_than_gossip_carries_is_refused_where_it_is_said(self) -> None:
        (network,) = networks(VirtualWorld(), 1)
        async with gossiping(network) as (node,):
            for key, size, ttl_s in (("k" * 200, 1, 1), ("k", 40_000, 1), ("k", 1, 0), ("k", 1, 1e9)):
                with pytest.raises(LocalFault):
                    node.publish(Topic.HEALTH, key, bytes(size), ttl_s)


@pytest.mark.parametrize("seed", range(12))
def test_the_link_stands_at_once_in_whatever_order_the_openings_of_both_sides_cross(seed: int) -> None:
    run_deterministically(open_while_the_other_opens, seed=seed)


async def open_while_the_other_opens() -> None:
    everyone = networks(VirtualWorld(0.05), 2)
    low, high = sorted(everyone, key=lambda network: network.peer)
    async with running(low, high), trio.open_nursery() as nursery:
        introduce(low, high)
        with pytest.raises(Unavailable):
            await low.open_stream(high.peer, streams.GOSSIP)  # which connects them
        nodes = {network: gossip_on(network, number) for number, network in enumerate(everyone, 1)}
        for node in nodes.values():
            await nursery.start(node.run)
        nodes[low].publish(Topic.HEALTH, "low", b"x", 30)
        nodes[high].publish(Topic.HEALTH, "high", b"x", 30)
        nodes[low].set_candidates([high.peer])
        await trio.sleep(0.05)
        nodes[high].set_candidates([low.peer])
        await until(lambda: hears(nodes[low], "high") and hears(nodes[high], "low"), 0.5)
        nursery.cancel_scope.cancel()


async def test_it_works_over_libp2p() -> None:
    everyone = [Libp2pNetwork(identity(number), NETWORK_ID, LOOPBACK) for number in range(1, 5)]
    async with gossiping(*everyone) as nodes:
        with trio.fail_after(20):
            await linked(*nodes)
            for number, node in enumerate(nodes):
                node.publish(Topic.HEALTH, f"{number}", b"x", 30)
            while not all(hears(node, f"{number}") for node in nodes for number in range(4)):
                await trio.sleep(0.01)
