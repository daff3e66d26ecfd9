"""Whom this node probes and what comes of it, without I/O: once a second a ping to everybody that it monitors.

A peer that owes a pong for `PROBE_S` is asked after at up to three others. If one of them reaches it, the fault is the
link's. If most of those asked answer that they don't, it is unreachable. If those asked are silent as well, it is more
likely that this node is deaf, and it says so of nobody until that has gone on for several rounds.

    round: Ping --pong--> fine
             |--PROBE_S--> Inquire --one reached it--> fine
                              |--INQUIRY_S--> unreachable, or nobody knows

Its own lateness is noticed by alarms that ring late: the time lost is given back to everybody who owes an answer, and for
a while deadlines are longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from protocols import limits
from protocols.ids import PeerId


@dataclass(frozen=True, slots=True)
class Ping:
    """Send one; a `Ponged` with its nonce is due."""

    peer: PeerId
    nonce: int


@dataclass(frozen=True, slots=True)
class AskAfter:
    """Have `via` ping `subject`; an `Answered` with the nonce is due."""

    via: PeerId
    subject: PeerId
    nonce: int


@dataclass(slots=True)
class Probe:
    """What a peer owes. `asked` is None until others are asked, then holds those who have not answered."""

    nonce: int
    until: float
    asked: set[PeerId] | None = None
    asked_count: int = 0


@dataclass(slots=True)
class Health:
    """Of this node itself: 0 is good. Stretches what others are allowed to take."""

    points: int = 0

    def blame(self) -> None:
        self.points = min(self.points + 1, limits.LATENESS_MAX)

    def praise(self) -> None:
        self.points = max(self.points - 1, 0)

    @property
    def stretch(self) -> float:
        return 1.0 + self.points / 4


@dataclass(slots=True)
class Probing:
    """The machine: `helpers` names whom to ask after a peer, best first."""

    helpers: Callable[[PeerId], Sequence[PeerId]]
    round_at: float = math.inf
    health: Health = field(default_factory=Health)
    _probes: dict[PeerId, Probe] = field(default_factory=dict)
    _unexplained: dict[PeerId, int] = field(default_factory=dict)
    _nonce: int = 0

    @property
    def deadline(self) -> float:
        """When somebody has owed for too long; rounds are begun by the caller at `round_at`."""
        return min([probe.until for probe in self._probes.values()], default=math.inf)

    def begin_round(self, peers: Iterable[PeerId], now: float) -> list[Ping]:
        """The next round is `PROBE_INTERVAL_S` from now. Whoever still owes is not pinged again."""
        wanted = [*peers]
        if not self._probes:
            self.health.praise()
        self._probes = {peer: probe for peer, probe in self._probes.items() if peer in wanted}
        self._unexplained = {peer: rounds for peer, rounds in self._unexplained.items() if peer in wanted}
        self.round_at = now + limits.PROBE_INTERVAL_S
        return [ping for peer in wanted for ping in self.ping(peer, now)]

    def ping(self, peer: PeerId, now: float) -> list[Ping]:
        """One, unless a probe of that peer is under way."""
        if peer in self._probes:
            return []
        self._nonce += 1
        self._probes[peer] = Probe(self._nonce, now + limits.PROBE_S * self.health.stretch)
        return [Ping(peer, self._nonce)]

    def reached(self, peer: PeerId, nonce: int) -> None:
        """It has answered, to this node or to one that was asked. An old answer is as good: it comes after its ping."""
        probe = self._probes.get(peer)
        if probe is not None and nonce == probe.nonce:
            del self._probes[peer]
            self._unexplained.pop(peer, None)

    def not_reached(self, peer: PeerId, via: PeerId, nonce: int) -> None:
        probe = self._probes.get(peer)
        if probe is not None and nonce == probe.nonce and probe.asked:
            probe.asked.discard(via)

    def due(self, now: float) -> tuple[list[AskAfter], list[PeerId]]:
        """Whom to ask after whom, and who turned out unreachable."""
        inquiries: list[AskAfter] = []
        unreachable: list[PeerId] = []
        for peer, probe in [*self._probes.items()]:
            if probe.until > now:
                continue
            if probe.asked is None and (asked := self._ask(peer, probe, now)):
                inquiries += asked
                continue
            del self._probes[peer]
            if self._is_explained(peer, probe):
                unreachable.append(peer)
        return inquiries, unreachable

    def give_back(self, lost_s: float) -> None:
        """This node was held up, and with it the reading of pongs."""
        self.round_at += lost_s
        for probe in self._probes.values():
            probe.until += lost_s

    def _ask(self, peer: PeerId, probe: Probe, now: float) -> list[AskAfter]:
        helpers = [*self.helpers(peer)][: limits.INQUIRIES]
        probe.asked, probe.asked_count = set(helpers), len(helpers)
        probe.until = now + limits.INQUIRY_S
        return [AskAfter(via, peer, probe.nonce) for via in helpers]

    def _is_explained(self, peer: PeerId, probe: Probe) -> bool:
        """Whether it is the peer that is to blame."""
        silent = len(probe.asked or ())
        if 2 * silent <= probe.asked_count:  # nobody asked included: then this node's word is all there is
            self._unexplained.pop(peer, None)
            return True
        self.health.blame()
        self._unexplained[peer] = self._unexplained.get(peer, 0) + 1
        return self._unexplained[peer] >= limits.UNEXPLAINED_ROUNDS
