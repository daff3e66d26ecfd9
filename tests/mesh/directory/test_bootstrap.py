"""Bootstrap entries, dnsaddr names that lead to them, and what a hint may change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.directory.bootstrap import DnsName, Hint, entry_text, parse_entry, resolve_entries, take_hint
from protocols import limits
from protocols.errors import Malformed, NoRoute
from protocols.membership import Contact
from tests.mesh.members.people import ONE, THREE, TWO, contact

STATIC = bytes(range(32))
HERE, THERE = "/ip4/192.0.2.1/tcp/4747", "/dns4/a.example.org/tcp/4747"


class Zone:
    """A DNS of dnsaddr records, by name without the "_dnsaddr."."""

    def __init__(self, records: Mapping[str, Sequence[str]]) -> None:
        self.records = {f"_dnsaddr.{name}": values for name, values in records.items()}
        self.asked: Counter[str] = Counter()

    async def texts(self, name: str) -> tuple[str, ...]:
        self.asked[name] += 1
        if name not in self.records:
            raise NoRoute("no such name")
        return tuple(f"dnsaddr={value}" for value in self.records[name])


@given(st.binary(min_size=32, max_size=32) | st.none())
def test_an_entry_says_what_it_was_made_of(static: bytes | None) -> None:
    for address in (HERE, THERE):
        text = entry_text(ONE, address, static)
        assert parse_entry(f" {text}\n") == Hint(ONE, (address,), (), static)


def test_a_dnsaddr_entry_may_mean_one_peer() -> None:
    assert parse_entry("/dnsaddr/bootstrap.example.org") == DnsName("bootstrap.example.org")
    assert parse_entry(f"/dnsaddr/b.example.org/p2p/{ONE}") == DnsName("b.example.org", ONE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        HERE,
        f"{HERE}/p2p/",
        f"{HERE}/p2p/nobody",
        f"/p2p/{ONE}",
        f"/ip4/192.0.2.1/udp/1/quic/p2p/{ONE}",
        f"{HERE}/p2p/{ONE}/p2p-circuit",
        f"{HERE}/p2p/{ONE}#static=",
        f"{HERE}/p2p/{ONE}#static=AAAA",
        f"{HERE}/p2p/{ONE}#key={'A' * 43}",
        f"{HERE}/p2p/{ONE}#static={'!' * 43}",
        "/dnsaddr/",
        "/dnsaddr/a b",
        "/dnsaddr/a.example#static=" + "A" * 43,
        "/dnsaddr/" + "a." * 200 + "b",
    ],
)
def test_what_is_no_entry_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_entry(text)


@given(st.text(max_size=80))
def test_no_text_does_worse_than_malformed(text: str) -> None:
    for attempt in (text, f"/dnsaddr/{text}", f"{HERE}/p2p/{text}", f"{HERE}/p2p/{ONE}#{text}"):
        try:
            parse_entry(attempt)
        except Malformed:
            continue


async def test_names_lead_to_peers_whose_addresses_are_joined() -> None:
    zone = Zone(
        {
            "b.example.org": [
                entry_text(ONE, HERE, None),
                entry_text(ONE, THERE, STATIC),
                f"/dnsaddr/eu.b.example.org/p2p/{TWO}",
                "/ip4/192.0.2.1/udp/4001/quic-v1/p2p/" + ONE,
            ],
            "eu.b.example.org": [entry_text(TWO, HERE, STATIC), entry_text(THREE, HERE, STATIC)],
        }
    )
    direct = entry_text(TWO, THERE, None)
    hints = await resolve_entries([direct, "/dnsaddr/b.example.org", "/dnsaddr/missing.example.org"], zone)
    assert hints == (Hint(TWO, (THERE, HERE), (), STATIC), Hint(ONE, (HERE, THERE), (), STATIC))


async def test_names_that_lead_in_circles_or_ever_deeper_are_asked_once_and_not_for_ever() -> None:
    circle = Zone({"a.example": ["/dnsaddr/B.example."], "b.example": ["/dnsaddr/a.example"]})
    assert await resolve_entries(["/dnsaddr/a.example"], circle) == ()
    assert set(circle.asked.values()) == {1}
    deep = Zone({f"{level}.example": [f"/dnsaddr/{level + 1}.example"] for level in range(50)})
    await resolve_entries(["/dnsaddr/0.example"], deep)
    assert len(deep.asked) == limits.DNS_DEPTH_MAX


async def test_a_name_with_thousands_of_answers_gives_a_few() -> None:
    many = [
        entry_text(ONE, f"/ip4/10.0.{number >> 8}.{number & 255}/tcp/1", STATIC) for number in range(5000)
    ]
    [hint] = await resolve_entries(["/dnsaddr/a.example"], Zone({"a.example": many}))
    assert len(hint.control) == limits.ADDRESSES_MAX
    wide = {
        f"{number}.example": [f"/dnsaddr/{number}-{each}.example" for each in range(16)]
        for number in range(16)
    }
    zone = Zone(wide | {"a.example": [f"/dnsaddr/{number}.example" for number in range(16)]})
    await resolve_entries(["/dnsaddr/a.example"], zone)
    assert sum(zone.asked.values()) <= limits.BOOTSTRAP_MAX


# What a hint may change ------------------------------------------------------------------------------------------------------


def test_a_hint_adds_an_address_behind_the_signed_ones_and_changes_nothing_else() -> None:
    known = contact(ONE, 5)
    taken = take_hint(Hint(ONE, (HERE,), (THERE,), b"\xff" * 32), known, is_wanted=False)
    assert taken == Contact(
        ONE, known.static, (*known.control, HERE), (*known.data, THERE), known.sequence, known.name
    )
    assert take_hint(Hint(ONE, known.control), known, is_wanted=True) is None, "nothing new"


def test_a_hint_displaces_no_signed_address() -> None:
    addresses = tuple(f"/ip4/10.0.0.{number}/tcp/1" for number in range(1, limits.ADDRESSES_MAX + 1))
    known = Contact(ONE, STATIC, addresses, addresses, 5)
    assert take_hint(Hint(ONE, (HERE,), (HERE,), STATIC), known, is_wanted=True) is None


def test_a_hint_for_an_unknown_peer_counts_only_where_one_is_wanted_and_can_be_dialled() -> None:
    hint = Hint(ONE, (HERE,), (THERE,), STATIC)
    assert take_hint(hint, None, is_wanted=False) is None
    assert take_hint(hint, None, is_wanted=True) == Contact(ONE, STATIC, (HERE,), (THERE,), 0)
    assert take_hint(Hint(ONE, (HERE,)), None, is_wanted=True) is None
    assert take_hint(Hint(ONE, (), (), STATIC), None, is_wanted=True) is None
