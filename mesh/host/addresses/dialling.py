"""Dialling one peer at several addresses: the likeliest first, the next before the last has given up (RFC 8305).

    order     where it answered last; the same subnet; other private addresses; the rest. IPv6 and IPv4 take turns; within
              a rank and a family, as the contact has it, which after a restart begins with where it answered last
    stagger   the next attempt begins 250 ms after the one before, or at once when that one failed
    result    the first that succeeds; the others are cancelled, and whoever answers them finds a closed socket

Names are resolved beside the dials, so that a slow DNS holds up nobody who gave an IP address as well. `DIALS_AT_ONCE` bounds
the attempts of all races together. `order` and `Stagger` are pure.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from mesh.host.addresses.interfaces import Interface
from mesh.rpc import deadline
from protocols import limits
from protocols.addresses import IpAddress, TcpAddress, parse_address, tcp_address
from protocols.errors import Malformed, NoRoute, RemoteFault, Unauthenticated, Unavailable

Attempt = Callable[["Candidate"], Awaitable[None]]
"""Connects, or raises `Unavailable` or `RemoteFault`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`address` has an IP address; `named` is what the peer's contact says."""

    address: TcpAddress
    named: str


class HostNames(Protocol):
    async def addresses(self, kind: str, host: str) -> tuple[IpAddress, ...]:
        """Of a dns4 or dns6 name, `DNS_ANSWERS_MAX` at most, within `DNS_S`. Raises `Unavailable`."""


# Order -------------------------------------------------------------------------------------------------------------------


def order(candidates: Iterable[Candidate], good: str, interfaces: Sequence[Interface]) -> list[Candidate]:
    """`good` is the address, as named, where the peer answered last."""
    ranks: dict[int, tuple[deque[Candidate], deque[Candidate]]] = {}
    for candidate in dict.fromkeys(candidates):
        families = ranks.setdefault(_rank(candidate, good, interfaces), (deque(), deque()))
        families[candidate.address.kind == "ip4"].append(candidate)
    return [
        candidate
        for rank in sorted(ranks)
        for pair in itertools.zip_longest(*ranks[rank])
        for candidate in pair
        if candidate is not None
    ]


def _rank(candidate: Candidate, good: str, interfaces: Sequence[Interface]) -> int:
    ip = candidate.address.ip
    assert ip is not None, "names are resolved before they are ordered"
    if good in (candidate.named, str(candidate.address)):
        return 0
    if any(ip.version == each.ip.version and ip in each.subnet for each in interfaces):
        return 1
    return 2 if ip.is_private else 3


@dataclass(slots=True)
class Stagger:
    """When to begin with which candidate. `waiting` are in order; `next_at` is when the first of them is due."""

    waiting: list[Candidate] = field(default_factory=list)
    under_way: int = 0
    next_at: float = -math.inf

    def begin(self, now: float) -> Candidate | None:
        """The candidate to dial now, if one is due."""
        if not self.waiting or now < self.next_at:
            return None
        self.under_way += 1
        self.next_at = now + limits.DIAL_STAGGER_S
        return self.waiting.pop(0)

    def failed(self, now: float) -> None:
        """One that was begun: the next is due at once."""
        self.under_way -= 1
        self.next_at = now

    @property
    def deadline(self) -> float:
        """When `begin` gives something; infinite while only an end or a name that resolves can change anything."""
        return self.next_at if self.waiting else math.inf


# The race ----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Race:
    """One peer being dialled."""

    stagger: Stagger
    good: str
    interfaces: Sequence[Interface]
    resolving: int = 0
    winner: Candidate | None = None
    failure: Unavailable | RemoteFault | None = None
    changed: trio.Event = field(default_factory=trio.Event)

    def add(self, candidates: Iterable[Candidate]) -> None:
        self.stagger.waiting = order([*self.stagger.waiting, *candidates], self.good, self.interfaces)
        self.changed.set()

    def fail(self, error: Unavailable | RemoteFault) -> None:
        # Of several reasons the one that names a culprit says most.
        if self.failure is None or not isinstance(self.failure, Unauthenticated):
            self.failure = error
        self.changed.set()

    @property
    def is_over(self) -> bool:
        return self.winner is not None or not (
            self.stagger.waiting or self.stagger.under_way or self.resolving
        )


class Dialler:
    """All outbound dials of one node. `is_usable` says whether an address with an IP may be dialled for this peer."""

    def __init__(self, names: HostNames, interfaces: Callable[[], Sequence[Interface]]) -> None:
        self._names = names
        self._interfaces = interfaces
        self._slots = trio.CapacityLimiter(limits.DIALS_AT_ONCE)

    async def first_to_answer(
        self,
        addresses: Sequence[str],
        good: str,
        is_usable: Callable[[TcpAddress], bool],
        attempt: Attempt,
    ) -> Candidate:
        """Where `attempt` succeeded. Raises its failure, or `NoRoute` if there was nothing to dial."""
        race = _Race(Stagger(), good, self._interfaces())
        async with trio.open_nursery() as nursery:
            self._enter(race, addresses, is_usable, nursery)
            while not race.is_over:
                race.changed = trio.Event()
                if (candidate := race.stagger.begin(trio.current_time())) is not None:
                    nursery.start_soon(self._try, race, candidate, attempt)
                with trio.move_on_at(race.stagger.deadline):
                    await race.changed.wait()
            nursery.cancel_scope.cancel()
        if race.winner is not None:
            return race.winner
        raise race.failure or NoRoute("there is no address that could be dialled")

    def _enter(
        self,
        race: _Race,
        addresses: Sequence[str],
        is_usable: Callable[[TcpAddress], bool],
        nursery: trio.Nursery,
    ) -> None:
        for named in addresses:
            try:
                address = parse_address(named)
            except Malformed as error:
                race.fail(NoRoute(str(error)))
                continue
            if address.ip is None:
                race.resolving += 1
                nursery.start_soon(self._resolve, race, address, is_usable)
            elif is_usable(address):
                race.add([Candidate(address, named)])

    async def _resolve(
        self, race: _Race, address: TcpAddress, is_usable: Callable[[TcpAddress], bool]
    ) -> None:
        try:
            with deadline(limits.DNS_S, f"no answer for {address.host}"):
                found = await self._names.addresses(address.kind, address.host)
            resolved = [tcp_address(ip, address.port) for ip in found[: limits.DNS_ANSWERS_MAX]]
            race.add([Candidate(each, str(address)) for each in resolved if is_usable(each)])
        except Unavailable as error:
            race.fail(error)
        finally:
            race.resolving -= 1

    async def _try(self, race: _Race, candidate: Candidate, attempt: Attempt) -> None:
        try:
            async with self._slots:
                with deadline(limits.DIAL_S, f"no answer at {candidate.address}"):
                    await attempt(candidate)
        except (Unavailable, RemoteFault) as error:
            race.stagger.failed(trio.current_time())
            race.fail(error)
        else:
            if race.winner is None:
                race.winner = candidate
            race.changed.set()


# What is known against an address ------------------------------------------------------------------------------------------

_REFUSED_S_MIN: Final = limits.REDIAL_S_MIN


@dataclass(slots=True)
class Refusals:
    """Addresses of one contact where somebody accepts and no handshake comes about: another peer, or one that says no.

    Each time doubles the pause, so that a contact which names a stranger's address does not make every member of the network
    knock there for ever. Where another identity was *proven* there is no second time. Forgotten with a newer contact.
    """

    _until: dict[str, float] = field(default_factory=dict)
    _pause_s: dict[str, float] = field(default_factory=dict)

    def refused(self, named: str, now: float, *, is_proven: bool) -> None:
        pause_s = self._pause_s.get(named, _REFUSED_S_MIN)
        self._pause_s[named] = min(2 * pause_s, limits.DIAL_REFUSED_S_MAX)
        self._until[named] = math.inf if is_proven else now + pause_s

    def may_dial(self, named: str, now: float) -> bool:
        return self._until.get(named, -math.inf) <= now

    def clear(self) -> None:
        self._until.clear()
        self._pause_s.clear()


def came_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether something of that kind is among the causes of `error`."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error is not None
