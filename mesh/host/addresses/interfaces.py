"""This machine's network interfaces, and which of its addresses the configuration lets others know.

Allowed are names ("eth0") and networks ("10.0.0.0/8"); none given: all but loopback and link-local ones, and loopback only if
there is nothing else. What the operator advertises, such as the outside of a NAT, comes first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import ifaddr

from protocols import limits
from protocols.addresses import IpAddress, TcpAddress, tcp_address
from protocols.streams import Plane

WILDCARDS: Final = (ipaddress.IPv4Address(0), ipaddress.IPv6Address(0))


@dataclass(frozen=True, slots=True)
class Reach:
    """What the operator says about addresses: `interfaces` that may be told, and on each plane what to tell besides."""

    interfaces: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    def told_on(self, plane: Plane) -> tuple[str, ...]:
        return self.control if plane is Plane.CONTROL else self.data


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of one interface, with the length of its network's prefix."""

    name: str
    ip: IpAddress
    prefix: int

    @property
    def subnet(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        return ipaddress.ip_network((self.ip, self.prefix), strict=False)


def own_interfaces() -> tuple[Interface, ...]:
    """As they are now; they change while a laptop moves."""
    return tuple(
        Interface(
            adapter.name,
            ipaddress.ip_address(each.ip if isinstance(each.ip, str) else each.ip[0]),
            each.network_prefix,
        )
        for adapter in ifaddr.get_adapters()
        for each in adapter.ips
    )


def allowed_interfaces(interfaces: Iterable[Interface], allowed: Sequence[str]) -> tuple[Interface, ...]:
    """Those that the configuration names, or by default all that reach beyond this machine and its links."""
    usable = [each for each in interfaces if not each.ip.is_link_local]
    if allowed:
        return tuple(each for each in usable if any(_is_named(each, text) for text in allowed))
    outward = tuple(each for each in usable if not each.ip.is_loopback)
    return outward or tuple(usable)


def _is_named(interface: Interface, text: str) -> bool:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return interface.name == text
    return interface.ip.version == network.version and interface.ip in network


def advertised(
    bound: Sequence[tuple[IpAddress, int]],
    interfaces: Sequence[Interface],
    allowed: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> tuple[str, ...]:
    """What others are told to dial: `extra`, then where the node listens, with wildcards expanded; eight at most.

    An address that was bound by name of the operator is told even if no interface has it.
    """
    found = list(extra)
    for ip, port in bound:
        if ip in WILDCARDS:
            fitting = allowed_interfaces(_of_version(interfaces, ip), allowed)
            found += [str(tcp_address(each.ip, port)) for each in fitting]
        else:
            found.append(str(tcp_address(ip, port)))
    return tuple(dict.fromkeys(found))[: limits.ADDRESSES_MAX]


def _of_version(interfaces: Iterable[Interface], ip: IpAddress) -> list[Interface]:
    return [each for each in interfaces if each.ip.version == ip.version]


def is_own(
    address: TcpAddress,
    bound: Sequence[tuple[IpAddress, int]],
    interfaces: Sequence[Interface],
    extra: Sequence[str] = (),
) -> bool:
    """Whether whoever dials `address` here reaches this very node. Names are judged once they are resolved."""
    if str(address) in extra:
        return True
    ip = address.ip
    for host, port in bound:
        if ip is None or port != address.port:
            continue
        if ip == host or (
            host in WILDCARDS and (ip.is_loopback or any(each.ip == ip for each in interfaces))
        ):
            return True
    return False


def bound_to(addresses: Iterable[str]) -> tuple[tuple[IpAddress, int], ...]:
    """Listening multiaddrs as pairs; wildcards are allowed here."""
    found: list[tuple[IpAddress, int]] = []
    for address in addresses:
        _, version, host, _, port = address.split("/")
        found.append(
            (ipaddress.IPv4Address(host) if version == "ip4" else ipaddress.IPv6Address(host), int(port))
        )
    return tuple(found)
