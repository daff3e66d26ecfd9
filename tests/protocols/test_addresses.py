"""Which texts are addresses that could be dialled."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.addresses import TEXT_LENGTH_MAX, parse_address, tcp_address
from protocols.errors import Malformed

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@given(st.ip_addresses(), st.integers(1, 65_535))
def test_an_ip_address_comes_back_as_it_was(ip: ipaddress.IPv4Address, port: int) -> None:
    address = tcp_address(ip, port)
    if ip.is_unspecified or ip.is_multicast:
        with pytest.raises(Malformed):
            parse_address(str(address))
    else:
        assert parse_address(str(address)) == address
        assert (address.ip, address.port) == (ip, port)


@given(st.lists(LABELS, min_size=1, max_size=4).map(".".join), st.sampled_from(["dns4", "dns6"]))
def test_a_name_comes_back_as_it_was_and_has_no_ip(name: str, kind: str) -> None:
    address = parse_address(f"/{kind}/{name}/tcp/4747")
    assert (address.kind, address.host, address.ip) == (kind, name, None)
    assert str(address) == f"/{kind}/{name}/tcp/4747"


def test_an_ip_address_is_told_in_its_shortest_form() -> None:
    assert str(parse_address("/ip6/2001:0DB8:0:0::1/tcp/1")) == "/ip6/2001:db8::1/tcp/1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/ip4/10.0.0.1",
        "/ip4/10.0.0.1/udp/4001",
        "/ip4/10.0.0.1/tcp/0",
        "/ip4/10.0.0.1/tcp/65536",
        "/ip4/10.0.0.1/tcp/01",
        "/ip4/10.0.0.1/tcp/4001/ws",
        "/ip4/10.0.0.1/tcp/4001\n",
        "/ip4/10.0.0.01/tcp/4001",
        "/ip4/::1/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip4/224.0.0.251/tcp/4001",
        "/ip6/::/tcp/4001",
        "/ip6/fe80::1%eth0/tcp/4001",
        "/ip6/10.0.0.1/tcp/4001",
        "/dns4/-a.example/tcp/4001",
        "/dns4/a..example/tcp/4001",
        "/dns4/a b/tcp/4001",
        "/dns4/ä.example/tcp/4001",
        "/dns/a.example/tcp/4001",
        "/dnsaddr/a.example",
        "/dns4/" + "a." * 60 + "example/tcp/4001",
        "/ip4/10.0.0.1/tcp/" + "1" * TEXT_LENGTH_MAX,
    ],
)
def test_what_could_not_be_dialled_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_address(text)


@given(st.text(max_size=200))
def test_no_text_does_worse_than_malformed(text: str) -> None:
    for attempt in (text, f"/ip4/{text}/tcp/1", f"/ip6/{text}/tcp/1", f"/dns4/{text}/tcp/1"):
        try:
            assert str(parse_address(attempt))
        except Malformed:
            continue
