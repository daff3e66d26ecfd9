"""The DNS: TXT records of dnsaddr names over a resolver of its own on trio, host names as the system resolves them.

Host names go through the system because it also knows /etc/hosts and the names of a container network. TXT records it can't
give, so they are asked for at the name servers of /etc/resolv.conf, over UDP, and TCP for what is too long.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import trio

from mesh.rpc import deadline
from protocols import limits
from protocols.addresses import IpAddress
from protocols.errors import NoRoute


class SystemNames:
    """Implements `mesh.directory.bootstrap.Names` and `mesh.host.addresses.dialling.HostNames`.

    `servers` are the IP addresses of name servers at `port`; none: those of this machine's configuration.
    """

    def __init__(self, servers: Sequence[str] = (), port: int = 53) -> None:
        self._servers = tuple(servers)
        self._port = port

    async def texts(self, name: str) -> tuple[str, ...]:
        """TXT records, each joined from its strings. Raises `Unavailable`."""
        # 0.3 s to import, which only nodes that use such names shall pay.
        import dns.asyncresolver
        import dns.exception

        try:
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers, resolver.port = list(self._servers), self._port
            with deadline(limits.DNS_S, f"no answer for the TXT records of {name}"):
                answer = await resolver.resolve(name, "TXT", search=False, lifetime=limits.DNS_S)
        except (dns.exception.DNSException, OSError) as error:
            raise NoRoute(f"no TXT records of {name}: {error}") from error
        strings = [b"".join(record.strings) for record in answer][: limits.DNS_ANSWERS_MAX]
        return tuple(text.decode("ascii", "replace") for text in strings)

    async def addresses(self, kind: str, host: str) -> tuple[IpAddress, ...]:
        """Of a dns4 or dns6 name. Raises `Unavailable`."""
        family = socket.AF_INET if kind == "dns4" else socket.AF_INET6
        try:
            with deadline(limits.DNS_S, f"no answer for {host}"):
                found = await trio.socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NoRoute(f"{host} is not known: {error}") from error
        ips = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        return tuple(dict.fromkeys(ips))[: limits.DNS_ANSWERS_MAX]
