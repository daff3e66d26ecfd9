"""Races between addresses: their order, their rhythm, and how they end."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from mesh.host.addresses.dialling import Candidate, Dialler, Refusals, Stagger, came_of, order
from mesh.host.addresses.interfaces import Interface
from protocols import limits
from protocols.addresses import IpAddress, TcpAddress, parse_address
from protocols.errors import Disconnected, NoRoute, TimedOut, Unauthenticated

LAN = (Interface("eth0", ipaddress.ip_address("192.168.1.5"), 24),)
NEAR, PRIVATE, PUBLIC, PUBLIC_2 = (
    f"/ip4/{host}/tcp/1" for host in ("192.168.1.9", "10.9.9.9", "8.8.8.8", "9.9.9.9")
)
PUBLIC_6, PUBLIC_6_2 = (f"/ip6/2600::{number}/tcp/1" for number in (1, 2))


def candidate(named: str) -> Candidate:
    return Candidate(parse_address(named), named)


def ordered(*named: str, good: str = "") -> list[str]:
    return [each.named for each in order(map(candidate, named), good, LAN)]


def test_the_likeliest_address_comes_first() -> None:
    assert ordered(PUBLIC, PRIVATE, NEAR) == [NEAR, PRIVATE, PUBLIC]
    assert ordered(PUBLIC, PRIVATE, NEAR, good=PUBLIC) == [PUBLIC, NEAR, PRIVATE]
    assert ordered(PUBLIC, PUBLIC) == [PUBLIC]


def test_the_families_take_turns_within_a_rank_and_ipv6_begins() -> None:
    assert ordered(PUBLIC, PUBLIC_2, PUBLIC_6, PUBLIC_6_2) == [PUBLIC_6, PUBLIC, PUBLIC_6_2, PUBLIC_2]
    assert ordered(PUBLIC_6, NEAR, PUBLIC) == [NEAR, PUBLIC_6, PUBLIC]


@given(st.permutations([NEAR, PRIVATE, PUBLIC, PUBLIC_2, PUBLIC_6, PUBLIC_6_2]), st.integers(0, 5))
def test_an_order_loses_nothing_and_begins_where_the_peer_answered_last(names: list[str], good: int) -> None:
    found = ordered(*names, good=names[good])
    assert sorted(found) == sorted(names)
    assert found[0] == names[good]


def test_the_next_begins_after_the_stagger_or_at_once_after_a_failure() -> None:
    stagger = Stagger([candidate(PUBLIC), candidate(PUBLIC_2), candidate(NEAR)])
    assert stagger.deadline == -math.inf
    assert stagger.begin(10.0) == candidate(PUBLIC)
    assert stagger.begin(10.0) is None
    assert stagger.deadline == 10.0 + limits.DIAL_STAGGER_S
    assert stagger.begin(10.25) == candidate(PUBLIC_2)
    stagger.failed(10.3)
    assert stagger.begin(10.3) == candidate(NEAR)
    assert (stagger.deadline, stagger.under_way) == (math.inf, 2)


# Races -------------------------------------------------------------------------------------------------------------------


class World:
    """What becomes of a dial, by address: seconds until it succeeds, or an error at once; the rest hang for ever."""

    def __init__(
        self, answers: Mapping[str, float | Exception], names: Mapping[str, list[str]] | None = None
    ) -> None:
        self.answers = answers
        self.hosts = names or {}
        self.began: list[tuple[str, float]] = []
        self.cancelled: list[str] = []
        self.under_way = self.most_under_way = 0

    async def dial(self, candidate: Candidate) -> None:
        text = str(candidate.address)
        self.began.append((text, trio.current_time()))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = self.answers.get(text, math.inf)
            if isinstance(answer, Exception):
                raise answer
            await trio.sleep(min(answer, 3600.0))
        except trio.Cancelled:
            self.cancelled.append(text)
            raise
        finally:
            self.under_way -= 1

    async def addresses(self, kind: str, host: str) -> tuple[IpAddress, ...]:
        await trio.sleep(1.0)
        if host == "slow.example":
            await trio.sleep(3600.0)
        if host not in self.hosts:
            raise NoRoute(f"{host} is not known")
        return tuple(map(ipaddress.ip_address, self.hosts[host]))

    async def race(self, *addresses: str, good: str = "", own: str = "") -> str:
        dialler = Dialler(self, lambda: LAN)

        def is_usable(address: TcpAddress) -> bool:
            return str(address) != own

        return (await dialler.first_to_answer(addresses, good, is_usable, self.dial)).named


async def test_a_dead_address_costs_a_quarter_of_a_second(autojump_clock: trio.testing.MockClock) -> None:
    world, began = World({PUBLIC_2: 0.01}), trio.current_time()
    assert await world.race(PUBLIC, PUBLIC_2) == PUBLIC_2
    assert trio.current_time() - began == pytest.approx(0.26)
    assert world.cancelled == [PUBLIC]


async def test_a_refusal_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    world, began = World({PUBLIC: Disconnected("refused"), PUBLIC_2: 0.01}), trio.current_time()
    assert await world.race(PUBLIC, PUBLIC_2) == PUBLIC_2
    assert trio.current_time() - began == pytest.approx(0.01)


async def test_a_slow_first_address_may_still_win(autojump_clock: trio.testing.MockClock) -> None:
    world = World({PUBLIC: 0.3, PUBLIC_2: 0.2})
    assert await world.race(PUBLIC, PUBLIC_2) == PUBLIC
    assert (world.cancelled, world.under_way) == ([PUBLIC_2], 0)


async def test_the_address_that_answered_last_is_the_only_one_dialled_if_it_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World({PUBLIC: 0.1})
    assert await world.race(NEAR, PRIVATE, PUBLIC, good=PUBLIC) == PUBLIC
    assert [text for text, _ in world.began] == [PUBLIC]


async def test_when_nobody_answers_the_race_ends_with_the_reason_that_names_a_culprit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World({PUBLIC: Unauthenticated("another peer"), PUBLIC_2: Disconnected("refused")})
    with pytest.raises(Unauthenticated, match="another peer"):
        await world.race(PUBLIC, PUBLIC_2)
    began = trio.current_time()
    with pytest.raises(TimedOut, match="no answer at"):
        await World({}).race(PUBLIC, PUBLIC_2)
    assert trio.current_time() - began == pytest.approx(limits.DIAL_S + limits.DIAL_STAGGER_S)


async def test_nothing_to_dial_is_no_route(autojump_clock: trio.testing.MockClock) -> None:
    for addresses in ((), ("hello",), (PUBLIC,)):
        with pytest.raises(NoRoute):
            await World({PUBLIC: 0.1}).race(*addresses, own=PUBLIC)


async def test_a_node_never_dials_itself_even_by_name(autojump_clock: trio.testing.MockClock) -> None:
    world = World({PUBLIC: 0.1, PUBLIC_2: 0.1}, {"me.example": ["8.8.8.8", "9.9.9.9"]})
    assert await world.race("/dns4/me.example/tcp/1", PUBLIC, own=PUBLIC) == "/dns4/me.example/tcp/1"
    assert [text for text, _ in world.began] == [PUBLIC_2]


async def test_a_name_is_resolved_beside_the_dials(autojump_clock: trio.testing.MockClock) -> None:
    world, began = World({PUBLIC_2: 0.1}, {"a.example": ["9.9.9.9"]}), trio.current_time()
    name = "/dns4/a.example/tcp/1"
    assert (
        await world.race("/dns4/slow.example/tcp/1", "/dns4/gone.example/tcp/1", name, PUBLIC, good=name)
        == name
    )
    assert trio.current_time() - began == pytest.approx(1.1)
    assert [text for text, _ in world.began] == [PUBLIC, PUBLIC_2], "the name was not there yet"


async def test_a_name_that_never_resolves_ends(autojump_clock: trio.testing.MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(TimedOut):
        await World({}).race("/dns4/slow.example/tcp/1")
    assert trio.current_time() - began == pytest.approx(limits.DNS_S)


async def test_all_races_together_dial_so_many_at_once(autojump_clock: trio.testing.MockClock) -> None:
    world = World({})
    dialler = Dialler(world, lambda: LAN)
    addresses = [f"/ip4/8.8.8.{number}/tcp/1" for number in range(8)]

    async def lose() -> None:
        with pytest.raises(TimedOut):
            await dialler.first_to_answer(addresses, "", lambda _: True, world.dial)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(lose)
    assert world.most_under_way == limits.DIALS_AT_ONCE
    assert len(world.began) == 160


async def test_a_cancelled_race_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    world = World({})
    with trio.move_on_after(1.0):
        await world.race(PUBLIC, PUBLIC_2, "/dns4/slow.example/tcp/1")
    assert sorted(world.cancelled) == sorted([PUBLIC, PUBLIC_2])
    assert world.under_way == 0


# Refusals ----------------------------------------------------------------------------------------------------------------


def test_an_address_where_another_peer_proved_itself_is_dialled_once() -> None:
    refusals = Refusals()
    assert refusals.may_dial(PUBLIC, 0.0)
    refusals.refused(PUBLIC, 0.0, is_proven=True)
    assert not refusals.may_dial(PUBLIC, 1e9)
    assert refusals.may_dial(PUBLIC_2, 0.0)
    refusals.clear()
    assert refusals.may_dial(PUBLIC, 0.0)


def test_an_address_that_does_not_answer_the_handshake_is_dialled_ever_more_rarely() -> None:
    refusals, now, dials = Refusals(), 0.0, 0
    while now < 24 * 3600:
        if refusals.may_dial(PUBLIC, now):
            refusals.refused(PUBLIC, now, is_proven=False)
            dials += 1
        now += 0.25
    assert 280 < dials < 310, "a few at first, then one in five minutes"


def test_a_cause_is_found_however_deep_it_is() -> None:
    error = Disconnected("outer")
    error.__cause__ = ValueError("middle")
    error.__cause__.__cause__ = KeyError("inner")
    assert came_of(error, KeyError)
    assert not came_of(error, OSError)
    assert not came_of(None, OSError)
