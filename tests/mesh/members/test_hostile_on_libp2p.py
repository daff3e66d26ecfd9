"""A member that keeps no rules, over real libp2p on loopback: what it sends costs its link, and the others nothing."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mesh.admission.certificates import found
from protocols import limits
from protocols.gossip import Item, Push, Topic
from protocols.streams import Plane
from simulations.machine.clock import SeededRandomness
from tests.mesh.members.rig import HOUR_S, planes_to, ups
from tests.mesh.members.rogues import bundle_of, invented, record_of, sizes, spread
from tests.mesh.members.test_members_on_libp2p import SOON_S, RealHome, await_all_up


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(SOON_S):
        while not is_so():
            await trio.sleep(0.01)


async def test_a_flood_of_invented_members_and_forged_bundles_disturbs_nobody() -> None:
    one, two, three = (RealHome(number) for number in (1, 2, 3))
    async with (
        one.up() as first,
        three.up(first.invite(1, HOUR_S)) as third,
        two.up(first.invite(1, HOUR_S)) as rogue,
    ):
        await await_all_up(first, {two.peer, three.peer})
        await until(lambda: {one.peer, three.peer} <= set(rogue.gossip.neighbours))
        await until(lambda: planes_to(one.network, three.peer) == set(Plane))
        before, net, now_s = sizes(first), first.network_id, one.clock.wall()
        author = invented(1)
        chain = found(author, SeededRandomness(1), now_s)
        spread(rogue, [record_of(author, net, chain, now_s + number / 1e3) for number in range(300)])
        await until(lambda: first.gossip.counts["refused"] >= 300)
        true = bundle_of(two.identity, net, now_s, Item(Topic.HEALTH, "", b"12345678", 60))
        forged = (true.body.replace(b"12345678", b"%08d" % number) for number in range(2_000))
        spread(rogue, [Push(1, body, true.signature) for body in forged])
        await until(lambda: first.gossip.counts["cut_off"] == 1)
        assert first.gossip.counts["forged"] <= limits.GOSSIP_FORGED_PER_MIN + 1
        assert sizes(first) == before
        assert ups(first) == {two.peer, three.peer}
        assert planes_to(one.network, three.peer) == set(Plane)
        third.gossip.publish(Topic.HEALTH, "", b"all is well", 30)
        await until(
            lambda: (
                (three.peer, b"all is well")
                in {(heard.author, heard.body) for heard in first.gossip.items(Topic.HEALTH)}
            )
        )
