"""Addresses as records and hints carry them: a multiaddr of TCP over an IP address or a DNS name, and nothing behind it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from protocols.errors import Malformed

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

TEXT_LENGTH_MAX: Final = 128  # "/dns4/" + a name + "/tcp/65535": names of up to 112 characters

_FORM: Final = re.compile(r"/(ip4|ip6|dns4|dns6)/([^/\s]{1,112})/tcp/([1-9][0-9]{0,4})", re.ASCII)
_NAME: Final = re.compile(
    r"(?=.{1,112}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """One place to dial; `str` gives the multiaddr, IP addresses in their shortest form."""

    kind: Literal["ip4", "ip6", "dns4", "dns6"]
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    @property
    def ip(self) -> IpAddress | None:
        """None for a name."""
        return ipaddress.ip_address(self.host) if self.kind in ("ip4", "ip6") else None


def tcp_address(ip: IpAddress, port: int) -> TcpAddress:
    """The address of a port at an IP address."""
    return TcpAddress("ip4" if ip.version == 4 else "ip6", str(ip), port)


def parse_address(text: str) -> TcpAddress:
    """Raises `Malformed` for whatever could not be dialled, such as port 0, a wildcard or an IPv6 zone."""
    form = _FORM.fullmatch(text) if len(text) <= TEXT_LENGTH_MAX else None
    if form is None or int(form[3]) > 65_535:
        raise Malformed(f"{text[:TEXT_LENGTH_MAX]!r} is no TCP address")
    kind, host, port = form[1], form[2], int(form[3])
    match kind:
        case "ip4" | "ip6":
            return tcp_address(_parse_ip(kind, host), port)
        case "dns4" | "dns6":
            if _NAME.fullmatch(host) is None:
                raise Malformed(f"{host!r} is no host name")
            return TcpAddress(kind, host, port)
        case _:
            raise AssertionError(kind)


def _parse_ip(kind: str, host: str) -> IpAddress:
    try:
        ip = ipaddress.IPv4Address(host) if kind == "ip4" else ipaddress.IPv6Address(host)
    except ValueError as error:
        raise Malformed(f"{host!r} is no {kind} address") from error
    if ip.is_unspecified or ip.is_multicast or getattr(ip, "scope_id", None):
        raise Malformed(f"{host!r} is no address of one host")
    return ip
