"""Whole nodes on the virtual network: joining, meeting, silence, crashes, restarts, goodbyes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from mesh.admission.belonging import read_belonging
from mesh.members.driver import Members
from mesh.members.membership import MemberDown, MemberUp
from mesh.rpc import dial
from protocols import limits, streams
from protocols.errors import Disconnected, Refused, UserError
from protocols.liveness import WATCH_CODEC, Ping, Pong
from protocols.membership import (
    JOIN_CODEC,
    MEMBERS_CODEC,
    JoinRefused,
    JoinRequest,
    Whereabouts,
    parse_invite,
)
from protocols.messages import Codec
from protocols.streams import Plane, StreamKind
from simulations.network.internet import VirtualWorld
from tests.contracts.talk import admit
from tests.mesh.members.rig import HOUR_S, Home, next_event, planes_to, settle, ups
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


@pytest.fixture
def homes() -> list[Home]:
    world = VirtualWorld(latency_s=0.005)
    return [Home(world, number) for number in range(1, 6)]


async def test_three_that_join_one_after_another_are_all_connected_on_both_planes(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first:
        invite = first.invite(2, HOUR_S)
        async with two.up(invite) as second, three.up(invite) as third:
            await settle(2.0)
            assert ups(first) == {two.peer, three.peer}
            assert ups(second) == {one.peer, three.peer}
            assert ups(third) == {one.peer, two.peer}
            for home in (one, two, three):
                for other in (one, two, three):
                    if other is not home:
                        assert planes_to(home.network, other.peer) == set(Plane)


async def test_names_and_addresses_are_known_to_all(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(1, HOUR_S)) as second,
        three.up(second.invite(1, HOUR_S)) as third,
    ):
        await settle(1.0)
        assert {contact.name for contact in first.members()} == {"node 2", "node 3"}
        assert third.contact() in first.members()
        assert first.contact() in third.members()
        assert third.network_id == first.network_id


async def test_a_joiner_is_up_for_its_inviter_at_once(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        events = first.subscribe()
        async with two.up(first.invite(1, HOUR_S)) as second:
            assert await next_event(events, 0.5) == MemberUp(two.peer)
            await settle(0.1)
            assert second.is_up(one.peer)


async def test_an_invite_lets_in_as_many_as_it_says(homes: list[Home]) -> None:
    one, two, three, four = homes[:4]
    async with one.up() as first:
        invite = first.invite(2, HOUR_S)
        async with two.up(invite), three.up(invite):
            with pytest.raises(Refused, match=r"spent.*weft invite"):
                async with four.up(invite):
                    pass
            await settle()
            assert ups(first) == {two.peer, three.peer}


async def test_a_refused_node_can_join_with_a_better_invite(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = first.invite(1, 5.0)
        await settle(6.0)
        with pytest.raises(Refused, match=r"expired.*weft invite"):
            async with two.up(invite):
                pass
        async with two.up(first.invite(1, HOUR_S)) as second:
            await settle(1.0)
            assert second.is_up(one.peer)


async def test_an_inviter_with_a_slower_clock_says_itself_that_the_invite_has_expired(
    homes: list[Home],
) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        first.invite(1, HOUR_S)
        invite = first.invite(1, 5.0)
        await settle(6.0)
        two.clock.skew_s = -100.0
        with pytest.raises(Refused, match="expired"):
            async with two.up(invite):
                pass


async def test_an_invite_of_an_inviter_that_forgot_it_is_unknown(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = parse_invite(first.invite(1, HOUR_S))
        forged = type(invite)(invite.network, invite.inviter, bytes(16), 1, invite.expires_s).to_text()
        with pytest.raises(Refused, match="does not know"):
            async with two.up(forged):
                pass


async def test_an_inviter_that_is_down_is_named_with_its_address(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = first.invite(1, HOUR_S)
        where = first.contact().control[0]
    with pytest.raises(UserError, match=where):
        async with two.up(invite):
            pass


async def test_an_inviter_that_is_silent_is_given_up_in_time(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = first.invite(1, HOUR_S)
        one.world.silence(one.peer)
        start = trio.current_time()
        with pytest.raises(UserError, match="check that it is up"):
            async with two.up(invite):
                pass
        assert trio.current_time() - start <= limits.JOIN_S + 1


async def test_a_member_of_another_network_is_not_taken_over(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with two.up() as alone:
        before = alone.network_id
    async with one.up() as first:
        with pytest.raises(UserError, match="WEFT_HOME"):
            async with two.up(first.invite(1, HOUR_S)):
                pass
    async with two.up() as again:
        assert again.network_id == before


async def test_a_running_node_refuses_an_invite_to_another_network(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up() as other:
        with pytest.raises(UserError, match="WEFT_HOME"):
            await other.join(first.invite(1, HOUR_S))
        with pytest.raises(UserError, match="another machine"):
            await other.join(other.invite(1, HOUR_S))
        with pytest.raises(UserError, match="no invite"):
            await other.join("nonsense")


async def test_joining_again_is_a_formality(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = first.invite(1, HOUR_S)
        async with two.up(invite) as second:
            await second.join(invite)
        async with two.up(invite) as second:
            await settle(1.0)
            assert second.is_up(one.peer)


async def test_a_joiner_whose_answer_was_lost_may_ask_again(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = first.invite(1, HOUR_S)
        async with two.up(invite):
            pass
        two.disk.files.clear()
        async with two.up(invite) as again:
            await settle(1.0)
            assert again.is_up(one.peer)


async def test_a_failed_join_leaves_nothing_behind(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        invite = first.invite(1, HOUR_S)
    with pytest.raises(UserError):
        async with two.up(invite):
            pass
    belonging = read_belonging(two.disk)
    assert belonging is not None
    assert not belonging.is_joined
    async with two.up() as alone:
        assert alone.network_id != parse_invite(invite).network
        assert not alone.members()


async def test_a_killed_member_is_down_and_comes_back_by_itself_on_other_ports(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, three.up(first.invite(1, HOUR_S)) as third:
        async with two.up(first.invite(1, HOUR_S)) as second:
            await settle()
            old = second.contact()
            events = first.subscribe()
            one.world.kill(two.peer)
            assert await next_event(events, 0.5) == MemberDown(two.peer)
        async with two.up() as second:
            assert await next_event(events, 1.0) == MemberUp(two.peer)
            await settle(2.0)
            assert second.contact().control != old.control
            assert second.contact() in first.members()
            assert second.contact() in third.members()
            assert ups(second) == {one.peer, three.peer}
            assert planes_to(one.network, two.peer) == set(Plane)


async def test_all_come_back_after_a_power_cut_in_which_everybody_moved_but_one(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first:
        async with two.up(first.invite(1, HOUR_S)), three.up(first.invite(1, HOUR_S)):
            await settle()
        await settle(60.0)
        assert not ups(first)
        async with two.up() as second, three.up() as third:
            await settle(15.0)
            assert ups(first) == {two.peer, three.peer}
            assert ups(second) == {one.peer, three.peer}
            assert ups(third) == {one.peer, two.peer}


async def test_a_silent_member_is_down_within_three_seconds_and_up_again_after_healing(
    homes: list[Home],
) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await settle()
        events = first.subscribe()
        one.world.silence(two.peer)
        limit_s = 3.1
        assert await next_event(events, limit_s) == MemberDown(two.peer)
        await settle(30.0)
        assert not second.is_up(one.peer)
        one.world.heal()
        assert await next_event(events, limits.REDIAL_S_MAX + limits.DIAL_S + 1) == MemberUp(two.peer)
        await settle(10.0)
        assert second.is_up(one.peer)
        assert planes_to(one.network, two.peer) == set(Plane)


async def test_a_slow_link_is_not_taken_for_silence(homes: list[Home]) -> None:
    one, two = homes[:2]
    one.world.links.latency_s = 0.4
    async with one.up() as first, two.up(first.invite(1, HOUR_S)):
        await settle()
        events = first.subscribe()
        with trio.move_on_after(120.0):
            pytest.fail(f"unexpected {await anext(events)}")


async def test_whoever_leaves_is_down_at_once_and_not_dialled_in_vain(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        async with two.up(first.invite(1, HOUR_S)) as second:
            await settle()
            events = first.subscribe()
            await second.leave()
            assert await next_event(events, 0.1) == MemberDown(two.peer)
            await settle(20.0)
            assert not first.is_up(two.peer)
        async with two.up():
            assert await next_event(events, 1.0) == MemberUp(two.peer)


async def test_a_network_of_five_meets_when_each_was_invited_by_another(homes: list[Home]) -> None:
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(homes[0].up())]
        for home in homes[1:]:
            invite = running[-1].invite(1, HOUR_S)
            running.append(await stack.enter_async_context(home.up(invite)))
        await settle()
        everybody = {home.peer for home in homes}
        for home, members in zip(homes, running, strict=True):
            assert ups(members) == everybody - {home.peer}


async def test_a_member_that_was_away_hears_of_those_who_joined_meanwhile(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first:
        async with two.up(first.invite(1, HOUR_S)):
            await settle()
        async with three.up(first.invite(1, HOUR_S)) as third, two.up() as second:
            await settle(5.0)
            assert ups(second) == {one.peer, three.peer}
            assert ups(third) == {one.peer, two.peer}


async def test_strangers_are_turned_away_once_no_invite_is_valid(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first:
        stranger = two.world.network(two.peer, first.network_id or pytest.fail("no network"))
        async with stranger.run():
            stranger.learn(first.contact())
            admit(stranger, one.peer)
            first.invite(1, 5.0)
            await stranger.connect(one.peer, Plane.CONTROL)
            await settle(6.0)
            assert not stranger.connections()
            with pytest.raises(Exception, match="showed no certificate"):
                await stranger.connect(one.peer, Plane.CONTROL)


async def say(home: Home, members: Members, kind: StreamKind, codec: Codec[Any], message: Any) -> Any:
    """What `members` answers to a message from `home`."""
    async with dial(home.network, members.contact().peer, kind, codec, members.network_id) as channel:
        await channel.send(message)
        return await channel.receive()


@pytest.mark.parametrize(
    "lie", ["an answer without a question", "a request for another", "a refusal instead of a request"]
)
async def test_who_speaks_for_another_is_cut_off(homes: list[Home], lie: str) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await settle()
        theirs = first.contact()
        kind, codec, message = {
            "an answer without a question": (streams.MEMBERS, MEMBERS_CODEC, Whereabouts(theirs)),
            "a request for another": (streams.JOIN, JOIN_CODEC, JoinRequest(bytes(16), theirs)),
            "a refusal instead of a request": (streams.JOIN, JOIN_CODEC, JoinRefused("I refuse")),
        }[lie]
        with pytest.raises(Disconnected):
            await say(two, first, kind, codec, message)
        assert one.network.faults
        assert ups(first) == {two.peer}
        assert ups(second) == {one.peer}


async def test_pings_are_answered_and_nothing_else_is(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)):
        await settle()
        assert await say(two, first, streams.PING, WATCH_CODEC, Ping(7)) == Pong(7)
        with pytest.raises(Disconnected):
            await say(two, first, streams.PING, WATCH_CODEC, Pong(7))


async def test_a_full_disk_stops_nobody(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await settle()
        two.disk.is_full = True
        async with three.up(first.invite(1, HOUR_S)):
            await settle()
            assert ups(second) == {one.peer, three.peer}


async def test_a_goodbye_to_nobody_takes_no_time(homes: list[Home]) -> None:
    async with homes[0].up() as alone:
        start = trio.current_time()
        await alone.leave()
        assert trio.current_time() == start
