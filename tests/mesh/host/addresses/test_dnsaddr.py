"""The DNS, asked for real: a name server of the test's own on a loopback port, and a resolver of host names of its own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from mesh.directory.bootstrap import Hint, entry_text, resolve_entries
from mesh.host.addresses.dnsaddr import SystemNames
from protocols import limits
from protocols.errors import NoRoute, Unavailable
from tests.mesh.members.people import ONE, TWO

STATIC = bytes(range(32))
ADDRESS = "/ip4/192.0.2.1/tcp/4747"


class NameServer:
    """TXT records by name; it says nothing about those in `silent`, and NXDOMAIN for the rest."""

    def __init__(self, records: dict[str, list[str]], silent: frozenset[str] = frozenset()) -> None:
        self.records = records
        self.silent = silent
        self.asked: list[str] = []
        self.port = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[SystemNames]:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            await udp.bind(("127.0.0.1", 0))
            self.port = udp.getsockname()[1]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, udp)
                yield SystemNames(("127.0.0.1",), self.port)
                nursery.cancel_scope.cancel()

    async def _serve(self, udp: trio.socket.SocketType) -> None:
        while True:
            data, sender = await udp.recvfrom(4096)
            query = dns.message.from_wire(data)
            name = query.question[0].name.to_text().rstrip(".")
            self.asked.append(name)
            if name in self.silent:
                continue
            reply = dns.message.make_response(query)
            if name in self.records:
                values = [_quoted(each) for each in self.records[name]]
                reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", *values))
            else:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            await udp.sendto(reply.to_wire(max_size=65_535), sender)


def _quoted(text: str) -> str:
    """As several strings of one record, which a TXT record of more than 255 letters needs."""
    return " ".join(f'"{text[at : at + 60]}"' for at in range(0, len(text), 60))


async def test_a_dnsaddr_name_leads_to_peers_with_their_statics() -> None:
    server = NameServer(
        {
            "_dnsaddr.bootstrap.example.org": [
                "dnsaddr=" + entry_text(ONE, ADDRESS, STATIC),
                "dnsaddr=/dnsaddr/more.example.org",
                "v=spf1 -all",
                "dnsaddr=/ip4/192.0.2.1/udp/1/quic-v1/p2p/" + TWO,
            ],
            "_dnsaddr.more.example.org": ["dnsaddr=" + entry_text(TWO, ADDRESS, None)],
        }
    )
    async with server.run() as names:
        hints = await resolve_entries(["/dnsaddr/bootstrap.example.org"], names)
    assert sorted(hints, key=lambda hint: hint.peer) == [
        Hint(ONE, (ADDRESS,), (), STATIC),
        Hint(TWO, (ADDRESS,), (), None),
    ]


async def test_a_name_that_does_not_exist_is_no_route() -> None:
    server = NameServer({})
    async with server.run() as names:
        with pytest.raises(NoRoute, match=r"no TXT records of _dnsaddr\.nowhere"):
            await names.texts("_dnsaddr.nowhere.example.org")
    assert server.asked == ["_dnsaddr.nowhere.example.org"], "no search list is tried"


async def test_a_server_that_says_nothing_is_not_waited_for_beyond_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "DNS_S", 0.2)
    server = NameServer({}, silent=frozenset({"a.example"}))
    began = trio.current_time()
    async with server.run() as names:
        with pytest.raises(Unavailable):
            await names.texts("a.example")
        assert await resolve_entries(["/dnsaddr/b.example"], names) == ()
    assert trio.current_time() - began < 3


async def test_of_many_answers_some_are_taken() -> None:
    server = NameServer({"a.example": [f"text {number}" for number in range(100)]})
    async with server.run() as names:
        assert len(await names.texts("a.example")) == limits.DNS_ANSWERS_MAX


class Hosts(trio.abc.HostnameResolver):
    """What the system knows: one name with two addresses of each version."""

    async def getaddrinfo(self, host: Any, port: Any, family: int = 0, *_: Any) -> Sequence[Any]:
        if host != b"a.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        ips = ["10.0.0.1", "10.0.0.1", "10.0.0.2"] if family == socket.AF_INET else ["fe80::1%eth0"]
        return [(family, socket.SOCK_STREAM, 6, "", (ip, 0)) for ip in ips]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise AssertionError("nobody asks for names of addresses")


async def test_host_names_are_asked_of_the_system_by_version() -> None:
    trio.socket.set_custom_hostname_resolver(Hosts())
    names = SystemNames()
    assert await names.addresses("dns4", "a.example") == tuple(
        map(ipaddress.ip_address, ("10.0.0.1", "10.0.0.2"))
    )
    assert await names.addresses("dns6", "a.example") == (ipaddress.ip_address("fe80::1"),)
    with pytest.raises(NoRoute, match=r"b\.example is not known"):
        await names.addresses("dns4", "b.example")
