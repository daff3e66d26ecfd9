"""Handshakes under way, by where they come from and how fast they begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.host.handshake.half_open import HalfOpen, prefix_of
from protocols import limits
from protocols.errors import Overloaded


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("192.0.2.200", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
    ],
)
def test_addresses_are_counted_with_their_neighbours(address: str, prefix: str) -> None:
    assert prefix_of(address) == prefix


@pytest.mark.parametrize(
    ("addresses", "most"),
    [
        ([f"192.0.2.{number}" for number in range(9)], limits.HALF_OPEN_PER_PREFIX_MAX),
        ([f"2001:db8::{number:x}" for number in range(9)], limits.HALF_OPEN_PER_PREFIX_MAX),
        (["127.0.0.1"] * 40, limits.HALF_OPEN_LOOPBACK_MAX),
        ([f"10.0.{number}.1" for number in range(99)], limits.HALF_OPEN_MAX),
    ],
)
def test_so_many_may_be_under_way_and_one_that_ends_makes_room(addresses: list[str], most: int) -> None:
    gate = HalfOpen()
    places = [gate.enter(address, float(number)) for number, address in enumerate(addresses[:most])]
    with pytest.raises(Overloaded):
        gate.enter(addresses[most], 1e6)
    assert gate.count == most
    gate.leave(places[0])
    gate.enter(addresses[0], 1e6)


def test_one_prefix_at_its_limit_is_no_hindrance_to_another() -> None:
    gate = HalfOpen()
    for _ in range(limits.HALF_OPEN_PER_PREFIX_MAX):
        gate.enter("192.0.2.1", 0.0)
    gate.enter("198.51.100.1", 0.0)
    gate.enter("127.0.0.1", 0.0)


def test_handshakes_begin_ten_a_second_however_fast_they_end() -> None:
    gate = HalfOpen()
    begun = 0
    for step in range(500):  # five seconds
        try:
            gate.leave(gate.enter("192.0.2.1", step * 0.01))
            begun += 1
        except Overloaded:
            continue
    assert limits.HANDSHAKES_PER_S * 5 <= begun <= limits.HANDSHAKES_PER_S * 6
    assert gate.count == 0


def test_twelve_nodes_on_one_machine_dial_each_other_at_once() -> None:
    gate = HalfOpen()
    for _ in range(3):
        for place in [gate.enter("127.0.0.1", 0.0) for _ in range(24)]:
            gate.leave(place)


def test_the_table_of_prefixes_is_bounded() -> None:
    gate = HalfOpen()
    for number in range(2 * limits.PREFIXES_MAX):
        gate.leave(gate.enter(f"10.{number >> 8}.{number & 255}.1", number * 0.001))
    assert len(gate._buckets) <= limits.PREFIXES_MAX
    assert not gate._open


@given(
    st.lists(
        st.tuples(st.sampled_from(["192.0.2.1", "198.51.100.1", "127.0.0.1"]), st.booleans()), max_size=200
    )
)
def test_the_count_is_what_is_under_way(steps: list[tuple[str, bool]]) -> None:
    gate, places = HalfOpen(), []
    for number, (address, leaves) in enumerate(steps):
        if leaves and places:
            gate.leave(places.pop())
            continue
        try:
            places.append(gate.enter(address, float(number)))
        except Overloaded:
            continue
    assert gate.count == len(places) <= limits.HALF_OPEN_MAX
