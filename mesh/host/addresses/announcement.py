"""What multicast DNS says and hears, as pure functions: this node's announcement, and the hints in others'."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mesh.directory.bootstrap import PEER_PATTERN, Hint
from mesh.host.addresses.interfaces import Interface, allowed_interfaces
from protocols import limits
from protocols.addresses import parse_address, tcp_address
from protocols.errors import Malformed
from protocols.ids import NetworkId, PeerId


class Reachable(Protocol):
    """What is announced, as it is now, such as this node's contact."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def static(self) -> bytes: ...
    @property
    def control(self) -> tuple[str, ...]: ...
    @property
    def data(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Announcement:
    """What stands on the link at one time: at these IPv4 addresses of ours, these ports."""

    peer: PeerId
    static: bytes
    tag: str
    ips: tuple[str, ...]
    control_port: int
    data_port: int


def network_tag(network: NetworkId) -> str:
    """Tells members' announcements from others' without saying the network id."""
    return hmac.new(network.encode(), b"weft-mdns-1", hashlib.sha256).hexdigest()[:16]


def announcement_of(
    own: Reachable, network: NetworkId, interfaces: Sequence[Interface], allowed: Sequence[str]
) -> Announcement | None:
    """On the private IPv4 interfaces that are allowed and where the node listens; loopback only if it is named.

    None if there is no such interface.
    """
    control, data = _ports(own.control), _ports(own.data)
    ips = tuple(
        str(each.ip)
        for each in allowed_interfaces(interfaces, allowed)
        if each.ip.version == 4
        and each.ip.is_private
        and (allowed or not each.ip.is_loopback)
        and str(each.ip) in control
    )
    if not ips:
        return None
    data_port = data.get(ips[0], 0)
    return Announcement(own.peer, own.static, network_tag(network), ips, control[ips[0]], data_port)


def _ports(addresses: Iterable[str]) -> dict[str, int]:
    """By host, of the first port that it has."""
    parsed = [parse_address(each) for each in addresses]
    return {each.host: each.port for each in reversed(parsed)}


def hint_of(
    tag: str,
    properties: Mapping[bytes, bytes | None],
    port: int | None,
    ips: Sequence[str],
    links: Sequence[Interface],
) -> Hint | None:
    """None for other networks and for whatever is not well-formed or not on one of these links."""
    try:
        if (properties.get(b"t") or b"").decode("ascii") != tag:
            return None
        peer = (properties.get(b"p") or b"").decode("ascii")
        static = base64.b64decode((properties.get(b"s") or b"") + b"=", altchars=b"-_", validate=True)
        data_port = int((properties.get(b"d") or b"0").decode("ascii")[:5])
    except (UnicodeDecodeError, binascii.Error, ValueError):
        return None
    if PEER_PATTERN.fullmatch(peer) is None or len(static) != 32:
        return None
    near = [ip for ip in ips[: limits.ADDRESSES_MAX] if _is_on(ip, links)]
    control, data = _at(near, port or 0), _at(near, data_port)
    return Hint(PeerId(peer), control, data, static) if control else None


def _at(ips: Sequence[str], port: int) -> tuple[str, ...]:
    texts = [str(tcp_address(ipaddress.ip_address(ip), port)) for ip in ips]
    return tuple(text for text in texts if _is_dialable(text))


def _is_dialable(text: str) -> bool:
    try:
        parse_address(text)
    except Malformed:
        return False
    return True


def _is_on(text: str, links: Sequence[Interface]) -> bool:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return False
    return any(ip.version == each.ip.version and ip in each.subnet for each in links)
