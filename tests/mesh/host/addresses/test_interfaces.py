"""Which of this machine's addresses others are told, and which are this node's own."""

from __future__ import annotations

import ipaddress

import pytest

from mesh.host.addresses.interfaces import (
    Interface,
    advertised,
    allowed_interfaces,
    bound_to,
    is_own,
    own_interfaces,
)
from protocols import limits
from protocols.addresses import parse_address


def interface(name: str, text: str) -> Interface:
    ip, prefix = text.split("/")
    return Interface(name, ipaddress.ip_address(ip), int(prefix))


LO, LO6 = interface("lo", "127.0.0.1/8"), interface("lo", "::1/128")
LAN, LAN6 = interface("eth0", "192.168.1.5/24"), interface("eth0", "2001:db8::5/64")
LINK6 = interface("eth0", "fe80::5/64")
VPN = interface("tun0", "10.8.0.2/16")
ALL = (LO, LO6, LAN, LAN6, LINK6, VPN)
EVERYWHERE = bound_to(("/ip4/0.0.0.0/tcp/4747",))
EVERYWHERE_6 = bound_to(("/ip6/::/tcp/4747",))


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ((), (LAN, LAN6, VPN)),
        (("eth0",), (LAN, LAN6)),
        (("10.0.0.0/8",), (VPN,)),
        (("tun0", "2001:db8::/32"), (LAN6, VPN)),
        (("lo",), (LO, LO6)),
        (("192.168.1.5",), (LAN,)),
        (("wlan0",), ()),
    ],
)
def test_the_configuration_names_interfaces_or_networks(
    allowed: tuple[str, ...], expected: tuple[Interface, ...]
) -> None:
    assert allowed_interfaces(ALL, allowed) == expected


def test_loopback_is_told_only_where_there_is_nothing_else() -> None:
    assert allowed_interfaces((LO, LO6, LINK6), ()) == (LO, LO6)


def test_a_wildcard_becomes_the_addresses_of_its_version_that_are_allowed() -> None:
    assert advertised(EVERYWHERE, ALL) == ("/ip4/192.168.1.5/tcp/4747", "/ip4/10.8.0.2/tcp/4747")
    assert advertised(EVERYWHERE_6, ALL) == ("/ip6/2001:db8::5/tcp/4747",)
    assert advertised(EVERYWHERE, ALL, ("tun0",)) == ("/ip4/10.8.0.2/tcp/4747",)
    assert advertised(EVERYWHERE, ALL, ("wlan0",)) == ()
    assert advertised(EVERYWHERE, (LO, LAN6)) == ("/ip4/127.0.0.1/tcp/4747",)


def test_what_was_bound_by_name_is_told_as_it_is() -> None:
    assert advertised(bound_to(("/ip4/127.0.0.1/tcp/9",)), ALL, ("tun0",)) == ("/ip4/127.0.0.1/tcp/9",)


def test_what_the_operator_advertises_comes_first_and_once_and_all_is_bounded() -> None:
    outside = "/dns4/me.example.org/tcp/1"
    assert advertised(EVERYWHERE, (VPN,), (), (outside, outside)) == (outside, "/ip4/10.8.0.2/tcp/4747")
    many = tuple(interface("eth0", f"10.0.0.{number}/24") for number in range(1, 100))
    told = advertised(EVERYWHERE, many, (), (outside,))
    assert (len(told), told[0]) == (limits.ADDRESSES_MAX, outside)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/192.168.1.5/tcp/4747", True),
        ("/ip4/127.0.0.1/tcp/4747", True),
        ("/ip4/127.9.9.9/tcp/4747", True),
        ("/ip4/192.168.1.5/tcp/4748", False),
        ("/ip4/192.168.1.6/tcp/4747", False),
        ("/dns4/me.example.org/tcp/4747", True),
        ("/dns4/other.example.org/tcp/4747", False),
        ("/ip4/203.0.113.7/tcp/80", True),
    ],
)
def test_a_node_knows_its_own_addresses(address: str, expected: bool) -> None:
    extra = ("/dns4/me.example.org/tcp/4747", "/ip4/203.0.113.7/tcp/80")
    assert is_own(parse_address(address), EVERYWHERE, ALL, extra) is expected


def test_a_node_on_one_address_does_not_take_its_neighbours_on_the_machine_for_itself() -> None:
    bound = bound_to(("/ip4/127.0.0.1/tcp/4747",))
    assert is_own(parse_address("/ip4/127.0.0.1/tcp/4747"), bound, ALL)
    assert not is_own(parse_address("/ip4/127.0.0.2/tcp/4747"), bound, ALL)
    assert not is_own(parse_address("/ip4/192.168.1.5/tcp/4747"), bound, ALL)


def test_this_machine_has_loopback() -> None:
    assert any(each.ip.is_loopback for each in own_interfaces())
