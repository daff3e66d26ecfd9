"""Multicast DNS: what is said and believed, and two nodes that find each other on loopback, which alone the tests use."""

from __future__ import annotations

import base64
import ipaddress
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.directory.bootstrap import Hint
from mesh.host.addresses.announcement import announcement_of, hint_of, network_tag
from mesh.host.addresses.interfaces import Interface, own_interfaces
from mesh.host.addresses.mdns import Mdns
from protocols import limits
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact

NETWORK, OTHER_NETWORK = NetworkId("ab" * 16), NetworkId("cd" * 16)
TAG = network_tag(NETWORK)
ONE, TWO, THREE = (PeerId(f"12D3KooW{letter * 44}") for letter in "abc")
STATIC = bytes(range(32))
LO = Interface("lo", ipaddress.ip_address("127.0.0.1"), 8)
LAN = Interface("eth0", ipaddress.ip_address("192.168.1.5"), 24)
PUBLIC = Interface("ppp0", ipaddress.ip_address("8.8.4.4"), 24)
LAN6 = Interface("eth0", ipaddress.ip_address("fd00::5"), 64)
EVERY = (LO, LAN, PUBLIC, LAN6)


def contact(*hosts: str, peer: PeerId = ONE) -> Contact:
    control = tuple(f"/ip{6 if ':' in host else 4}/{host}/tcp/4747" for host in hosts)
    return Contact(peer, STATIC, control, tuple(each[:-1] + "8" for each in control), 1)


def test_a_node_announces_itself_on_private_links_where_it_listens() -> None:
    everywhere = contact(*(str(each.ip) for each in EVERY))
    said = announcement_of(everywhere, NETWORK, EVERY, ())
    assert said is not None
    assert (said.ips, said.control_port, said.data_port) == (("192.168.1.5",), 4747, 4748)
    assert NETWORK not in repr(said), "the network id is no business of the link's"
    assert announcement_of(contact("8.8.4.4"), NETWORK, EVERY, ()) is None
    assert announcement_of(everywhere, NETWORK, EVERY, ("ppp0",)) is None
    assert announcement_of(contact("192.168.1.5"), NETWORK, EVERY, ("10.0.0.0/8",)) is None


def test_loopback_is_used_only_where_it_is_named() -> None:
    local = contact("127.0.0.1")
    assert announcement_of(local, NETWORK, EVERY, ()) is None
    assert announcement_of(local, NETWORK, (LO,), ()) is None
    named = announcement_of(local, NETWORK, EVERY, ("lo",))
    assert named is not None
    assert named.ips == ("127.0.0.1",)


# What is believed --------------------------------------------------------------------------------------------------------


def heard(**changes: bytes | None) -> dict[bytes, bytes | None]:
    static = base64.urlsafe_b64encode(STATIC).rstrip(b"=")
    said = {"t": TAG.encode(), "p": ONE.encode(), "s": static, "d": b"4748"} | changes
    return {key.encode(): value for key, value in said.items()}


def test_a_well_formed_announcement_is_a_hint() -> None:
    hint = hint_of(TAG, heard(), 4747, ["192.168.1.9"], [LAN])
    assert hint == Hint(ONE, ("/ip4/192.168.1.9/tcp/4747",), ("/ip4/192.168.1.9/tcp/4748",), STATIC)
    without_data = hint_of(TAG, heard(d=None), 4747, ["192.168.1.9"], [LAN])
    assert without_data == Hint(ONE, ("/ip4/192.168.1.9/tcp/4747",), (), STATIC)


@pytest.mark.parametrize(
    "changes",
    [
        {"t": network_tag(OTHER_NETWORK).encode()},
        {"t": None},
        {"t": b"\xff"},
        {"p": b"nobody"},
        {"p": None},
        {"s": b"AAAA"},
        {"s": b"!" * 43},
        {"s": None},
        {"d": b"many"},
    ],
)
def test_what_is_foreign_or_malformed_is_no_hint(changes: dict[str, bytes | None]) -> None:
    assert hint_of(TAG, heard(**changes), 4747, ["192.168.1.9"], [LAN]) is None


@pytest.mark.parametrize("ips", [[], ["8.8.8.8"], ["192.168.2.9"], ["127.0.0.1"], ["hello"]])
def test_nobody_is_sent_beyond_the_link(ips: list[str]) -> None:
    assert hint_of(TAG, heard(), 4747, ips, [LAN]) is None


@pytest.mark.parametrize("port", [None, 0])
def test_without_a_port_there_is_no_hint(port: int | None) -> None:
    assert hint_of(TAG, heard(), port, ["192.168.1.9"], [LAN]) is None


def test_of_many_addresses_a_few_are_taken() -> None:
    hint = hint_of(TAG, heard(), 4747, [f"192.168.1.{number}" for number in range(1, 200)], [LAN])
    assert hint is not None
    assert len(hint.control) == limits.ADDRESSES_MAX


@given(st.dictionaries(st.sampled_from([b"t", b"p", b"s", b"d"]), st.binary(max_size=60) | st.none()))
def test_no_announcement_does_worse_than_being_ignored(properties: dict[bytes, bytes | None]) -> None:
    hint_of(TAG, {b"t": TAG.encode()} | properties, 4747, ["192.168.1.9"], [LAN])


# On the link -------------------------------------------------------------------------------------------------------------


def node(peer: PeerId, port: int, network: NetworkId = NETWORK) -> Mdns:
    own = Contact(peer, STATIC, (f"/ip4/127.0.0.1/tcp/{port}",), (f"/ip4/127.0.0.1/tcp/{port + 1}",), 1)
    return Mdns(network, lambda: own, own_interfaces, ("127.0.0.0/8",))


async def test_members_on_one_link_find_each_other_and_nobody_else() -> None:
    sender, hints = trio.open_memory_channel[tuple[PeerId, Hint]](16)
    found: dict[PeerId, Hint] = {}
    nodes = {ONE: node(ONE, 4747), TWO: node(TWO, 4757), THREE: node(THREE, 4767, OTHER_NETWORK)}
    before = joined_groups()
    async with trio.open_nursery() as nursery:
        for peer, each in nodes.items():

            def hear(hint: Hint, peer: PeerId = peer) -> None:
                sender.send_nowait((peer, hint))

            await nursery.start(partial(each.run, hear))
        with trio.fail_after(30):
            while len(found) < 2 or nodes[THREE].dropped["no hint"] < 2:
                with trio.move_on_after(0.1):
                    peer, hint = await hints.receive()
                    found[peer] = hint
        assert {name for name in joined_groups() if name not in before} <= {"lo"}
        nursery.cancel_scope.cancel()
    assert found == {
        ONE: Hint(TWO, ("/ip4/127.0.0.1/tcp/4757",), ("/ip4/127.0.0.1/tcp/4758",), STATIC),
        TWO: Hint(ONE, ("/ip4/127.0.0.1/tcp/4747",), ("/ip4/127.0.0.1/tcp/4748",), STATIC),
    }


def joined_groups() -> set[str]:
    """The interfaces on which some program of this machine has joined mDNS's group."""
    joined, name = set(), ""
    for line in Path("/proc/net/igmp").read_text("ascii").splitlines()[1:]:
        if not line.startswith("\t"):
            name = line.split()[1]
        elif line.split()[0] == "FB0000E0":  # 224.0.0.251, the least byte first
            joined.add(name)
    return joined


async def test_a_node_without_an_allowed_link_opens_no_socket(autojump_clock: trio.testing.MockClock) -> None:
    contact_nowhere = contact("127.0.0.1")
    silent = Mdns(NETWORK, lambda: contact_nowhere, lambda: EVERY)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(silent.run, lambda _: None))
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    assert not silent.dropped


async def test_a_link_that_does_not_work_is_tried_again_and_ends_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An address that no interface of this machine has."""
    gone = Interface("eth9", ipaddress.ip_address("192.168.254.254"), 24)
    own = contact("192.168.254.254")
    mdns = Mdns(NETWORK, lambda: own, lambda: (gone,))
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(mdns.run, lambda _: None))
        await trio.sleep(2.5 * limits.RECORD_CHECK_S)
        nursery.cancel_scope.cancel()
