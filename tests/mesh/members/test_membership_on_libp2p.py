"""Certificates over real libp2p on loopback: bad ones are refused, told why, counted, and disturb nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mesh.admission.certificates import found
from mesh.admission.identity import Identity, static_key
from mesh.host.libp2p_network import Libp2pNetwork
from mesh.members.driver import Members
from protocols import limits, streams
from protocols.certificates import Chain, encode_chain
from protocols.errors import Disconnected, Unauthenticated, Unavailable
from protocols.seams import PeerDown
from protocols.streams import Plane
from simulations.machine.clock import SeededRandomness
from tests.contracts.talk import await_events, contact_of, echo
from tests.mesh.admission.papers import below, identity, signed
from tests.mesh.members.rig import HOUR_S, ups
from tests.mesh.members.test_members_on_libp2p import LOOPBACK, RealHome, await_all_up
from tests.mesh.members.test_membership_on_paper import DAY_S, Shows, chain_of


@asynccontextmanager
async def a_mesh() -> AsyncIterator[tuple[RealHome, Members, RealHome, Members]]:
    """A founder and a member, who can talk; nobody is invited any more."""
    one, two = RealHome(1), RealHome(2)
    async with one.up() as first, two.up(first.invite(1, HOUR_S)) as second:
        await await_all_up(first, {two.peer})
        first._inviting._invites._records.clear()
        first._refresh_welcome()
        yield one, first, two, second


async def visit(visitor: Identity, chain: Chain, home: RealHome, first: Members) -> str:
    """Why a node with that chain is not let in."""
    network = Libp2pNetwork(visitor, first.network_id or pytest.fail("none"), LOOPBACK)
    async with network.run():
        network.guard(Shows(encode_chain(chain)))
        network.learn(first.contact())
        try:
            await network.connect(home.peer, Plane.CONTROL)
        except Unauthenticated as error:
            return str(error)
    raise AssertionError("it was let in")


async def test_bad_certificates_are_refused_with_a_sentence_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "weft.host")
    me, other = identity(7), identity(8)
    async with a_mesh() as (one, first, two, _):
        own, founder = chain_of(one), one.identity
        now_s = one.clock.wall()
        bad = {
            "showed no certificate": (),
            "forged": (signed(me, below(own, founder, me)[0]), *own),
            "is of network": found(me, SeededRandomness(3), now_s),
            "did not found": (signed(me, own[0], peer=me.peer, sponsor=me.peer),),
            "of another node": below(own, founder, other),
            "ended 365 days ago": below(own, founder, me, now_s=now_s - 2 * 365 * DAY_S),
            "42 min ahead": below(own, founder, me, now_s=now_s + 42 * 60 + 30),
        }
        before = one.network.faults["Unauthenticated"]
        for told, chain in bad.items():
            assert told in await visit(me, chain, one, first)
        with trio.fail_after(10):
            while one.network.faults["Unauthenticated"] < before + len(bad):
                await trio.sleep(0.01)
        logged = " ".join(record.getMessage() for record in caplog.records)
        assert all(told in logged for told in bad)
        assert ups(first) == {two.peer}


async def test_a_static_that_another_identity_signed_is_refused_and_counted() -> None:
    class Forged(Identity):
        def sign_static(self, static: bytes) -> bytes:
            return identity(8).sign_static(static)

    async with a_mesh() as (one, first, two, _):
        me = Forged(identity(7)._signer, identity(7).statics)
        network = Libp2pNetwork(me, first.network_id or pytest.fail("none"), LOOPBACK)
        before = one.network.faults["Unauthenticated"]
        async with network.run():
            network.guard(Shows(encode_chain(below(chain_of(one), one.identity, me))))
            network.learn(first.contact())
            with pytest.raises((Unavailable, Unauthenticated)):
                await network.connect(one.peer, Plane.CONTROL)
        assert one.network.faults["Unauthenticated"] == before + 1
        assert ups(first) == {two.peer}


async def test_an_open_connection_whose_certificate_is_revoked_is_closed() -> None:
    async with a_mesh() as (one, first, two, _second):
        events = one.network.events()
        stream = await two.network.open_stream(one.peer, streams.PING)
        first.revoke(two.peer)
        with trio.fail_after(5), pytest.raises(Disconnected):
            while await stream.receive():
                pass
        with trio.fail_after(5):
            while await anext(events) != PeerDown(two.peer, Plane.CONTROL):
                pass
        with pytest.raises(Unauthenticated, match="was revoked"):
            await two.network.connect(one.peer, Plane.CONTROL)
        assert not first.members()


async def test_the_last_two_statics_are_good() -> None:
    one, two = RealHome(1), RealHome(2)
    chain = found(one.identity, SeededRandomness(1), 0)
    networks = [Libp2pNetwork(home.identity, chain[0].network, LOOPBACK) for home in (one, two)]
    async with networks[0].run(), networks[1].run():
        here, there = networks
        for network in networks:
            network.guard(Shows(b""))
        there.handle(streams.MEMBERS, echo)
        here.learn(contact_of(there))
        for number, is_good in ((50, True), (51, False)):
            two.identity.replace_static(static_key(bytes([number]) * 32, 0))
            if is_good:
                await here.connect(two.peer, Plane.CONTROL)
                await here.disconnect(two.peer)
            else:
                with pytest.raises(Unavailable, match="key may have changed"):
                    await here.connect(two.peer, Plane.CONTROL)
        here.learn(contact_of(there, 2))
        await here.connect(two.peer, Plane.CONTROL)


async def test_slow_visitors_are_bounded_counted_and_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_S", 1.0)
    async with a_mesh() as (one, first, two, second):
        port = int(first.contact().control[0].rsplit("/", 1)[1])
        slow = []
        for _ in range(limits.HALF_OPEN_MAX):
            visitor = await trio.open_tcp_stream("127.0.0.1", port)
            await visitor.send_all(b"\x13/multi")
            slow.append(visitor)
        with trio.fail_after(5):
            while one.network.faults["Overloaded"] < limits.HALF_OPEN_MAX - limits.HALF_OPEN_LOOPBACK_MAX:
                await trio.sleep(0.01)
        assert ups(first) == {two.peer}
        with trio.fail_after(10):
            while sum(one.network._hosts[plane]._half_open.count for plane in Plane):
                await trio.sleep(0.02)
        assert sum(one.network.faults.values()) >= limits.HALF_OPEN_MAX
        events = one.network.events()
        await two.network.disconnect(one.peer)
        await await_events(events, *(PeerDown(two.peer, plane) for plane in Plane))
        await await_all_up(second, {one.peer})
        for visitor in slow:
            await visitor.aclose()
