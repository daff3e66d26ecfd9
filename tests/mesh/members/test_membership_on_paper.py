"""Whole nodes and their certificates on the virtual network: who gets in, who has to go, who comes back."""

from __future__ import annotations

import pytest
import trio

from mesh.admission.belonging import Belonging, read_belonging, write_belonging
from mesh.admission.certificates import expires_s, found
from mesh.admission.identity import rotate_static
from mesh.members.membership import MemberDown, MemberUp, Met
from mesh.rpc import dial
from protocols import limits, streams
from protocols.certificates import Chain, Right, encode_chain
from protocols.errors import Disconnected, NotFound, Refused, Unauthenticated, Unavailable, UserError
from protocols.ids import NetworkId
from protocols.membership import MEMBERS_CODEC, Contact, Renewed, Revoked, Whereabouts, WhereIs
from protocols.streams import Plane
from simulations.machine.clock import SeededRandomness
from simulations.network.internet import VirtualNetwork, VirtualWorld
from tests.mesh.admission.papers import NOW_S, below, identity, signed
from tests.mesh.members.rig import HOUR_S, Home, next_event, settle, ups
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

DAY_S = 24 * HOUR_S


@pytest.fixture(autouse=True)
def upkeep_is_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of pings take seconds even on a virtual clock."""
    monkeypatch.setattr(limits, "RENEW_CHECK_S", 45.0)


@pytest.fixture
def homes() -> list[Home]:
    world = VirtualWorld(latency_s=0.005)
    return [Home(world, number) for number in range(1, 7)]


def chain_of(home: Home) -> Chain:
    belonging = read_belonging(home.disk)
    assert belonging is not None
    return belonging.chain


class Shows:
    """The door of a node that shows whatever it likes, and lets everybody in."""

    def __init__(self, shown: bytes) -> None:
        self._shown = shown

    def show(self) -> bytes:
        return self._shown

    def judge(self, peer: object, shown: bytes) -> bool:
        return True


async def attempt(home: Home, chain: Chain, inviter: Contact, network_id: NetworkId) -> VirtualNetwork:
    """A node that shows `chain` and dials `inviter`; raises what comes of it."""
    network = home.world.network(home.peer, network_id)
    failure: Exception | None = None
    async with network.run():
        network.guard(Shows(encode_chain(chain)))
        network.learn(inviter)
        try:
            await network.connect(inviter.peer, Plane.CONTROL)
        except (Unauthenticated, Unavailable) as error:
            failure = error
    if failure:
        raise failure
    return network


async def test_whoever_joins_has_a_chain_up_to_the_founder_and_keeps_it(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        async with three.up(second.invite(1, HOUR_S)):
            await settle(1.0)
        assert [each.peer for each in chain_of(three)] == [three.peer, two.peer, one.peer]
        assert chain_of(three)[-1].is_root
        async with three.up() as third:
            await settle(2.0)
            assert ups(third) == {one.peer, two.peer}


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (lambda one, me, own: (), "showed no certificate"),
        (lambda one, me, own: (signed(me, below(own, one, me)[0]), *own), "forged"),
        (lambda one, me, own: found(me, SeededRandomness(3), NOW_S), "is of network"),
        (lambda one, me, own: (signed(me, own[0], peer=me.peer, sponsor=me.peer),), "did not found"),
        (lambda one, me, own: below(own, one, identity(9)), "certificate of another node"),
        (lambda one, me, own: below(own, one, me, now_s=NOW_S - 2 * 365 * DAY_S), "ended 365 days ago"),
        (lambda one, me, own: below(own, one, me, now_s=NOW_S + 42 * 60), "its clock is 42 min ahead"),
        (
            lambda one, me, own: (
                signed(identity(9), own[0], peer=me.peer, sponsor=identity(9).peer),
                *below(own, one, identity(9), Right(0)),
            ),
            "had no right",
        ),
    ],
)
@pytest.mark.parametrize("are_strangers_welcome", [False, True])
async def test_a_bad_certificate_is_refused_with_a_sentence_counted_and_disturbs_nobody(
    homes: list[Home], forge, told: str, are_strangers_welcome: bool
) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, 1.0)):
        await settle(2.0)
        if are_strangers_welcome:
            first.invite(1, HOUR_S)
        one.clock.skew_s = -trio.current_time()
        chain = forge(one.identity, three.identity, chain_of(one))
        if not chain and are_strangers_welcome:
            return
        with pytest.raises(Unauthenticated, match=told):
            await attempt(three, chain, first.contact(), first.network_id or pytest.fail("none"))
        assert one.network.faults["Unauthenticated"] >= 1
        assert ups(first) == {two.peer}


async def test_whom_the_founder_revokes_is_out_at_once_everywhere_and_stays_out(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)), three.up(first.invite(1, HOUR_S)) as third:
        await settle(2.0)
        events = third.subscribe()
        assert first.revoke(two.peer) == ()
        assert await next_event(events, 1.0) == MemberDown(two.peer)
        await settle(2.0)
        for home, members in ((one, first), (three, third)):
            assert two.peer not in {contact.peer for contact in members.members()}
            assert not [each for each in home.network.connections() if each.peer == two.peer]
        await settle(20.0)
        assert ups(first) == {three.peer}
    async with three.up() as third, two.up():
        await settle(10.0)
        assert not ups(third)


async def test_who_was_away_hears_of_a_revocation_from_the_first_member_that_it_meets(
    homes: list[Home],
) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)):
        async with three.up(first.invite(1, HOUR_S)):
            await settle(1.0)
        first.revoke(two.peer)
        async with three.up() as third:
            await settle(5.0)
            assert ups(third) == {one.peer}
            assert two.peer not in {contact.peer for contact in third.members()}


async def test_a_revoked_sponsor_takes_those_below_with_it_and_they_may_join_again(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        async with three.up(second.invite(1, HOUR_S)):
            await settle(2.0)
            assert first.revoke(two.peer) == (three.peer,)
            await settle(1.0)
            assert not ups(first)
        three.disk.delete("network.json")
        async with three.up(first.invite(1, HOUR_S)):
            await settle(2.0)
            assert ups(first) == {three.peer}
        with pytest.raises(Refused, match="membership was revoked"):
            two_again = Home(two.world, two.number)
            async with two_again.up(first.invite(1, HOUR_S)):
                pass


async def test_only_a_sponsor_up_the_chain_may_revoke(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(1, HOUR_S)) as second,
        three.up(second.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        with pytest.raises(Refused, match=f"run 'weft revoke' on one of {one.peer[-8:]}"):
            third.revoke(two.peer)
        with pytest.raises(Refused, match="founded this network"):
            third.revoke(one.peer)
        with pytest.raises(Refused, match="does not revoke itself"):
            first.revoke(one.peer)
        with pytest.raises(NotFound, match="on the founder"):
            third.revoke(identity(9).peer)
        assert second.revoke(three.peer) == ()
        await settle(1.0)
        assert ups(first) == {two.peer}


async def test_a_revocation_that_its_issuer_did_not_sign_changes_nothing(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)), three.up(first.invite(1, HOUR_S)) as third:
        await settle(2.0)
        net = first.network_id or pytest.fail("none")
        for body in (b"", b"garbage", encode_chain(chain_of(three))):
            with pytest.raises(Disconnected):
                async with dial(two.network, three.peer, streams.MEMBERS, MEMBERS_CODEC, net) as channel:
                    await channel.send(Revoked(body))
                    await channel.receive()
        assert three.network.faults["Malformed"] >= 3
        assert ups(third) == {one.peer, two.peer}


@pytest.mark.parametrize("away_s", [7 * DAY_S, 182 * DAY_S])
async def test_a_member_that_was_away_for_long_comes_back_by_itself(homes: list[Home], away_s: float) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        async with two.up(first.invite(1, HOUR_S)):
            await settle()
        for home in (one, two):
            home.clock.skew_s = away_s
        async with two.up() as second:
            await settle(5.0)
            assert ups(first) == {two.peer}
            assert ups(second) == {one.peer}


async def test_a_certificate_is_renewed_long_before_it_ends(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        async with two.up(first.invite(1, HOUR_S)):
            await settle()
        before = expires_s(chain_of(two))
        for home in (one, two):
            home.clock.skew_s = 182 * DAY_S
        async with two.up():
            await settle(60.0)
        assert expires_s(chain_of(two)) == pytest.approx(before + 182 * DAY_S, abs=120)


async def test_whose_certificate_has_ended_says_so_and_joins_again_with_a_new_invite(
    homes: list[Home],
) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        async with two.up(first.invite(1, HOUR_S)):
            await settle()
        one.clock.skew_s = 400 * DAY_S
        async with two.up():  # which does not know it
            await settle(10.0)
            assert not ups(first)
            assert one.network.faults["Unauthenticated"] >= 1
        two.clock.skew_s = one.clock.skew_s
        async with two.up():  # which does
            await settle(10.0)
            assert not ups(first)
        async with two.up(first.invite(1, HOUR_S)) as second:
            await settle(2.0)
            assert ups(second) == {one.peer}
            assert ups(first) == {two.peer}


async def test_a_certificate_that_ends_while_connected_ends_the_connection(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)):
        await settle()
        events = first.subscribe()
        one.clock.skew_s = 400 * DAY_S
        assert await next_event(events, limits.RENEW_CHECK_S + 60) == MemberDown(two.peer)


async def test_a_joiner_whose_clock_is_behind_is_told_by_how_much(homes: list[Home]) -> None:
    one, two = homes[:2]
    two.clock.skew_s = -42 * 60
    async with one.up() as first:
        with pytest.raises(UserError, match=r"42 min ahead"):
            async with two.up(first.invite(1, HOUR_S)):
                pass
    belonging = read_belonging(two.disk)
    assert belonging is not None
    assert not belonging.is_joined


@pytest.mark.parametrize("skew_s", [-limits.CLOCK_SKEW_S + 60, limits.CLOCK_SKEW_S])
async def test_clocks_ten_minutes_apart_are_no_hindrance(homes: list[Home], skew_s: float) -> None:
    one, two = homes[:2]
    two.clock.skew_s = skew_s
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await settle(2.0)
        assert ups(second) == {one.peer}


async def test_a_member_at_the_end_of_the_longest_chain_moves_up_and_may_invite_then(
    homes: list[Home],
) -> None:
    async with homes[0].up() as first:
        members, held = [first], []
        try:
            for home in homes[1:5]:
                context = home.up(members[-1].invite(1, HOUR_S))
                held.append(context)
                members.append(await context.__aenter__())
            assert len(chain_of(homes[4])) == limits.CHAIN_MAX
            with pytest.raises(Refused, match="too far to invite"):
                members[-1].invite(1, HOUR_S)
            await settle(120.0)
            assert len(chain_of(homes[4])) == 2
            async with homes[5].up(members[-1].invite(1, HOUR_S)) as sixth:
                await settle(2.0)
                assert len(ups(sixth)) == 5
        finally:
            for context in reversed(held):
                await context.__aexit__(None, None, None)


async def test_a_new_noise_key_is_told_to_all_and_the_old_one_is_good_meanwhile(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        async with three.up(first.invite(1, HOUR_S)):
            await settle(1.0)
        old = first.contact()
        for home in homes:
            home.clock.skew_s = limits.STATIC_S
        await settle(limits.RENEW_CHECK_S + 60)
        new = first.contact()
        assert new.static != old.static
        assert new in second.members()
        assert [key.public for key in one.identity.statics] == [new.static, old.static]
        async with three.up() as third:  # with what it knew
            await settle(2.0)
            assert one.peer in ups(third)
            assert new in third.members()


async def test_a_dialler_with_a_stale_key_asks_another_member(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        async with three.up(first.invite(1, HOUR_S)):
            await settle(1.0)
        for seed in range(2):  # and of the others none, so that only one of them is hard to find
            rotate_static(one.disk, SeededRandomness(seed), one.identity, one.clock.wall())
            first._record.check_soon()
            await settle(60)
        one.world.cut(one.peer, three.peer)
        net = second.network_id
        async with three.up() as third:
            await settle(2.0)
            assert ups(third) == {two.peer}
            assert first.contact() in third.members()
            async with dial(three.network, two.peer, streams.MEMBERS, MEMBERS_CODEC, net) as channel:
                await channel.send(WhereIs(one.peer))
                assert await channel.receive() == Whereabouts(first.contact())
            async with dial(three.network, two.peer, streams.MEMBERS, MEMBERS_CODEC, net) as channel:
                await channel.send(WhereIs(identity(9).peer))
                assert await channel.receive() == Whereabouts(None)
            one.world.heal()
            await settle(10.0)
            assert ups(third) == {one.peer, two.peer}


async def test_an_invite_tells_a_member_that_lost_touch_where_to_go(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)):
        await settle()
    for _ in range(3):
        one.clock.skew_s += limits.STATIC_S
        async with one.up():
            await settle(60.0)
    async with one.up() as first:
        one.world.cut(one.peer, two.peer)
        invite = first.invite(1, HOUR_S)
        async with two.up() as second:
            await settle(1.0)
            one.world.heal()
            await second.join(invite)
            await settle(5.0)
            assert ups(second) == {one.peer}


async def test_answers_that_nobody_asked_for_end_the_stream(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await settle()
        net = first.network_id or pytest.fail("none")
        for message in (Renewed(b""), Whereabouts(second.contact())):
            with pytest.raises(Disconnected):
                async with dial(two.network, one.peer, streams.MEMBERS, MEMBERS_CODEC, net) as channel:
                    await channel.send(message)
                    await channel.receive()
        assert ups(first) == {two.peer}


async def test_a_member_whom_nobody_vouched_for_is_met_by_its_own_certificate(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first:
        chain = below(chain_of(one), one.identity, three.identity)
        write_belonging(three.disk, Belonging(chain[0].network, is_joined=True, chain=chain))
        async with two.up(first.invite(1, HOUR_S)) as second, three.up() as third:
            events = second.subscribe()
            third._handle(Met(second.contact()))
            assert await next_event(events, 10.0) == MemberUp(three.peer)


async def test_strangers_are_told_nothing_but_the_join_stream(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        first.invite(1, HOUR_S)
        net = first.network_id or pytest.fail("none")
        stranger = two.world.network(two.peer, net)
        async with stranger.run():
            stranger.guard(Shows(b""))
            stranger.learn(first.contact())
            for kind in (streams.MEMBERS, streams.PING):
                with pytest.raises((Unavailable, Unauthenticated)):
                    async with dial(stranger, one.peer, kind, MEMBERS_CODEC, net) as channel:
                        await channel.send(WhereIs(one.peer))
                        await channel.receive()
        assert not first.members()
