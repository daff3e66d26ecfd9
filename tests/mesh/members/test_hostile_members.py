"""Whole nodes and a member that keeps no rules: what it says is refused or bounded, counted, and disturbs nobody else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from msgspec.structs import replace

from mesh.admission.certificates import found
from mesh.admission.signatures import sign_statement
from mesh.directory import records
from mesh.directory.address_book import BOOK_FILE, AddressBook
from mesh.members.driver import Members
from mesh.members.membership import MemberDown
from protocols import limits
from protocols.certificates import encode_chain
from protocols.errors import Unauthenticated
from protocols.gossip import Item, Push, Topic
from protocols.records import (
    RECORD_DOMAIN,
    SignedRecord,
    decode_record,
    decode_signed,
    encode_record,
    encode_signed,
)
from protocols.streams import Plane
from simulations.machine.clock import SeededRandomness
from simulations.network.internet import VirtualWorld
from tests.mesh.admission.papers import below
from tests.mesh.members.rig import HOUR_S, Home, next_event, planes_to, settle, ups
from tests.mesh.members.rogues import bundle_of, invented, record_item, record_of, sizes, spread
from tests.mesh.members.test_membership_on_paper import Shows, chain_of
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


@pytest.fixture
def homes() -> list[Home]:
    world = VirtualWorld(latency_s=0.005)
    return [Home(world, number) for number in range(1, 7)]


async def assert_is_heard(speaker: Home, said_by: Members, *by: Members) -> None:
    """A word of a member that keeps the rules gets to the others within a second."""
    said_by.gossip.publish(Topic.HEALTH, "", b"all is well", 30)
    await settle(1.0)
    for members in by:
        words = [heard for heard in members.gossip.items(Topic.HEALTH) if heard.author == speaker.peer]
        assert [heard.body for heard in words] == [b"all is well"]
    said_by.gossip.publish(Topic.HEALTH, "", b"", 30)


async def test_invented_members_with_invented_chains_are_counted_and_in_nobodys_way(
    homes: list[Home],
) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        now_s, net, before = one.clock.wall(), first.network_id, sizes(first)
        someone = invented(0)
        chains = (
            (),
            found(someone, SeededRandomness(1), now_s),
            (*below(chain_of(two), invented(1), someone), *chain_of(two))[:2],
            below(chain_of(one), one.identity, three.identity),
        )
        for number in range(limits.MEMBERS_MAX + 476):
            author = invented(number % 40)
            spread(rogue, [record_of(author, net, chains[number % len(chains)], now_s + number / 1e3)])
        await settle(1.0)
        assert sizes(first) == before
        counts = first.gossip.counts
        assert counts["refused"] + counts["limited"] >= limits.MEMBERS_MAX
        assert counts["limited"] >= 400, "what costs a signature is rationed"
        assert ups(first) == {two.peer, three.peer}
        await assert_is_heard(three, third, first)


async def test_a_sponsor_that_makes_members_by_the_thousand_pushes_nobody_out(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 24)
    one, two, three, four = homes[:4]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        own, net = chain_of(two), first.network_id
        for number in range(200):
            made = below(own, two.identity, invented(number), now_s=one.clock.wall())
            spread(rogue, [record_of(invented(number), net, made, one.clock.wall())])
            await settle(0.1)
        assert max(sizes(first)) <= 24
        assert first.gossip.counts["full"] + first.gossip.counts["limited"] >= 150
        assert first.is_member(three.peer)
        assert third.contact() in first.members()
        assert ups(first) == {two.peer, three.peer}
        await assert_is_heard(three, third, first)
        first.revoke(two.peer)
        await settle(2 * limits.GOSSIP_REPAIR_S)
        assert {contact.peer for contact in first.members()} == {three.peer}
        assert first.gossip._machine.size[0] == 2
        async with four.up(first.invite(1, HOUR_S)) as fourth:
            await settle(2.0)
            assert ups(fourth) == {one.peer, three.peer}
            await assert_is_heard(four, fourth, first, third)


async def test_members_that_one_sponsor_has_made_and_that_connect_push_nobody_out(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MEMBERS_MAX", 12)
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)),
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        net, refused = first.network_id, 0
        for number in range(40):
            who = invented(number)
            network = one.world.network(who.peer, net)
            async with network.run():
                chain = below(chain_of(two), two.identity, who, now_s=one.clock.wall())
                network.guard(Shows(encode_chain(chain)))
                network.learn(first.contact())
                with suppress(Unauthenticated):
                    await network.connect(one.peer, Plane.CONTROL)
                    await settle(0.1)
                    continue
            refused += 1
        assert refused >= 40 - 12
        assert one.network.faults["Unauthenticated"] >= refused
        assert first.is_member(three.peer)
        assert first.is_member(two.peer)
        assert ups(first) == {two.peer, three.peer}
        await assert_is_heard(three, third, first)


async def test_members_that_were_invented_do_not_hold_up_the_way_back_of_one_that_was_not(
    homes: list[Home],
) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        own, now_s = chain_of(two), one.clock.wall()
        for number in range(150):
            for home in (one, three):  # nobody answers there, which takes much longer than to be refused
                home.world.links.set_latency(home.peer, invented(number).peer, 60.0)
            made = below(own, two.identity, invented(number), now_s=now_s)
            spread(rogue, [record_of(invented(number), first.network_id, made, now_s)])
        await settle(limits.REDIAL_PATIENCE_S + 5.0)
        assert len(third.members()) >= 150
        events = first.subscribe()
        one.world.silence(three.peer)
        assert await next_event(events, 5.0) == MemberDown(three.peer)
        await settle(10.0)
        one.world.heal()
        await settle(limits.REDIAL_S_MAX + limits.DIAL_S + 1)
        assert first.is_up(three.peer)
        assert planes_to(one.network, three.peer) == set(Plane), "the data plane is dialled by nobody else"


async def test_forged_bundles_end_the_link_and_nothing_else(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        now_s = one.clock.wall()
        true = bundle_of(two.identity, first.network_id, now_s, Item(Topic.HEALTH, "", b"12345678", 60))
        for number in range(5_000):
            changed = true.body.replace(b"12345678", b"%08d" % number)
            spread(rogue, [Push(1, changed, true.signature)])
        await settle(1.0)
        counts = first.gossip.counts
        assert 0 < counts["forged"] <= limits.GOSSIP_FORGED_PER_MIN + 1
        assert counts["cut_off"] == 1
        assert two.peer not in first.gossip.neighbours
        assert ups(first) == {two.peer, three.peer}, "the connection is not the link"
        await assert_is_heard(three, third, first)


@pytest.mark.parametrize(
    ("ahead_s", "kind"),
    [(limits.CLOCK_SKEW_S + 60.0, "future"), (-3700.0, "expired")],
)
async def test_records_out_of_their_time_are_counted_and_not_taken(
    homes: list[Home], ahead_s: float, kind: str
) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        author, now_s, before = invented(1), one.clock.wall(), sizes(first)
        chain = below(chain_of(two), two.identity, author, now_s=now_s)
        spread(rogue, [record_of(author, first.network_id, chain, now_s + ahead_s)])
        await settle(1.0)
        assert first.gossip.counts[kind] == 1
        assert sizes(first) == before
        record = record_item(author, first.network_id, chain, now_s + ahead_s - 24 * HOUR_S)
        if kind == "expired":  # in a bundle that is not: the record itself says when it ends
            spread(rogue, [bundle_of(author, first.network_id, now_s, record)])
            await settle(1.0)
            assert first.gossip.counts["refused"] == 1
            assert sizes(first) == before
        await assert_is_heard(three, third, first)


async def test_a_record_with_ten_thousand_addresses_is_refused_though_all_signatures_hold(
    homes: list[Home],
) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        now_s, before, author = one.clock.wall(), sizes(first), invented(1)
        chain = below(chain_of(two), two.identity, author, now_s=now_s)
        good = decode_record(decode_signed(record_item(author, first.network_id, chain, now_s).body).record)
        record = encode_record(replace(good, control=("/",) * 10_000))
        signed = SignedRecord(record, sign_statement(author, RECORD_DOMAIN, record))
        item = Item(Topic.RECORD, "", encode_signed(signed), 60)
        assert len(item.body) < limits.GOSSIP_ITEM_BYTES_MAX, "gossip would carry it"
        spread(rogue, [bundle_of(author, first.network_id, now_s, item)])
        await settle(1.0)
        assert first.gossip.counts["refused"] == 1
        assert sizes(first) == before
        await assert_is_heard(three, third, first)


async def test_a_replayed_word_changes_nothing(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(2, HOUR_S)) as rogue,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(2.0)
        now_s, net = one.clock.wall(), first.network_id
        old = [
            bundle_of(three.identity, net, now_s - age_s, Item(Topic.CLAIMS, "k", b"old", 600))
            for age_s in (3.0, 2.0, 1.0)
        ]
        third.gossip.publish(Topic.CLAIMS, "k", b"new", 600)
        await settle(1.0)
        spread(rogue, [*old, *old])
        await settle(1.0)
        assert [heard.body for heard in first.gossip.items(Topic.CLAIMS)] == [b"new"]
        assert first.gossip.counts["replayed"] == 3
        third.gossip.publish(Topic.CLAIMS, "k", b"", 600)
        await settle(1.0)
        spread(rogue, old)
        await settle(1.0)
        assert not first.gossip.items(Topic.CLAIMS), "what was withdrawn stays so"


async def test_a_member_that_makes_its_record_anew_all_the_time_costs_few_writes(homes: list[Home]) -> None:
    one, two = homes[:2]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as rogue:
        await settle(10.0)
        writes, write = [], one.disk.write

        def counting(path: str, data: bytes, mode: int = 0o600) -> None:
            writes.append(path)
            write(path, data, mode)

        one.disk.write = counting  # type: ignore[method-assign]
        for _ in range(200):
            push = record_of(two.identity, first.network_id, chain_of(two), one.clock.wall())
            spread(rogue, [push])
            await settle(0.05)
        record = first.record(two.peer)
        assert record is not None
        assert record.name == "nobody", "they were taken"
        assert len(writes) <= 3
        assert ups(first) == {two.peer}


async def test_a_book_on_a_full_disk_is_counted_and_written_when_there_is_room_again(
    homes: list[Home],
) -> None:
    one, two, three = homes[:3]
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await settle(limits.BOOK_WRITE_S_MIN + 1)
        two.disk.is_full = True
        async with three.up(first.invite(1, HOUR_S)) as third:
            await settle(2 * limits.BOOK_WRITE_S_MIN)
            failures = second.troubles()["book not written"]
            assert failures >= 1
            await assert_is_heard(three, third, second)
        two.disk.is_full = False
        await settle(8 * limits.BOOK_WRITE_S_MIN)
        book = AddressBook.decode(two.disk.read(BOOK_FILE))
        assert three.peer in book
        assert second.troubles()["book not written"] <= failures + 2, "tried again ever more rarely"


async def test_records_are_renewed_and_heard_for_as_long_as_their_nodes_run(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RECORD_TTL_S", 120.0)
    monkeypatch.setattr(records, "RENEW_AFTER_S", 60.0)
    one, two, three = homes[:3]
    async with (
        one.up() as first,
        two.up(first.invite(1, HOUR_S)) as second,
        three.up(first.invite(1, HOUR_S)) as third,
    ):
        await settle(420.0)
        now_s = one.clock.wall()
        for members, others in ((first, (two, three)), (second, (one, three)), (third, (one, two))):
            assert len(members.gossip.items(Topic.RECORD)) == 3
            for other in others:
                record = members.record(other.peer)
                assert record is not None
                assert now_s - record.issued_s <= 61 + limits.RECORD_CHECK_S
                assert members.is_member(other.peer)
            assert members.gossip.counts["stranger"] == 0
        await assert_is_heard(two, second, first, third)


@pytest.mark.parametrize("skew_s", [1200.0, -1200.0])
async def test_a_clock_twenty_minutes_off_is_counted_where_words_come_from_the_future(
    homes: list[Home], skew_s: float
) -> None:
    one, two, three = homes[:3]
    async with one.up() as first:
        async with three.up(first.invite(1, HOUR_S)), two.up(first.invite(1, HOUR_S)):
            await settle(2.0)
        for home in (one, two, three):
            home.clock.skew_s = HOUR_S  # so that no certificate is too young for any of them
        two.clock.skew_s += skew_s
        async with three.up() as third, two.up() as off:
            await settle(5.0)
            off.gossip.publish(Topic.HEALTH, "", b"x", 30)
            third.gossip.publish(Topic.HEALTH, "", b"x", 30)
            await settle(2.0)
            late, ahead = (first, off) if skew_s > 0 else (off, first)
            assert late.gossip.counts["future"] >= 1
            assert ahead.gossip.counts["future"] == 0
            await assert_is_heard(three, third, first)


async def test_two_homes_with_one_key_do_not_talk_each_other_to_death(homes: list[Home]) -> None:
    one, two, three = homes[:3]
    twin = Home(one.world, 2)
    async with one.up() as first, three.up(first.invite(1, HOUR_S)) as third:
        async with two.up(first.invite(1, HOUR_S)):
            await settle(2.0)
        twin.disk.files.update(two.disk.files)
        async with two.up() as here, twin.up() as there:
            await settle(10.0)
            before = here.gossip.counts["sealed"] + there.gossip.counts["sealed"]
            await settle(60.0)
            sealed = here.gossip.counts["sealed"] + there.gossip.counts["sealed"] - before
            assert sealed / 60.0 <= 4.0
            assert first.is_up(three.peer)
            await assert_is_heard(three, third, first)
            await assert_is_heard(one, first, third)
