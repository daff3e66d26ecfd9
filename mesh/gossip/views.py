"""Whom this node is linked with, after HyParView (Leitão, Pereira, Rodrigues 2007), over members that are known anyway.

The active view holds about `GOSSIP_ACTIVE` neighbours, each linked both ways; the passive view is a sample of the others,
from which a lost neighbour is replaced at once. Since everybody knows all members, nobody has to be told of any: the passive
view is drawn anew at every shuffle. A shuffle also asks one more peer, and drops a neighbour that is one too many: so the
graph stays random, and halves that were apart grow together. Newly alive members are asked right away, each by about
`GOSSIP_ACTIVE` others and not by all of them.

    passive --Open--> opening --welcome--> active --lost, closed--> passive
                         \\-- full, failed, silent --> avoided for GOSSIP_AVOID_S
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final, TypeVar

from protocols import limits
from protocols.ids import PeerId
from protocols.seams import Randomness

DrawnT = TypeVar("DrawnT")

_DRAW_BYTES: Final = 6
_DRAWS: Final = 256**_DRAW_BYTES


class Draw:
    """Choices out of `Randomness`; their bias is below one in 10^11."""

    def __init__(self, randomness: Randomness) -> None:
        self._randomness = randomness

    def fraction(self) -> float:
        """Below 1."""
        return int.from_bytes(self._randomness.token_bytes(_DRAW_BYTES)) / _DRAWS

    def one(self, of: Sequence[DrawnT]) -> DrawnT:
        return of[int(self.fraction() * len(of))]

    def some(self, of: Sequence[DrawnT], count: int) -> list[DrawnT]:
        """Up to `count` of them in random order."""
        rest = list(of)
        drawn: list[DrawnT] = []
        while rest and len(drawn) < count:
            place = int(self.fraction() * len(rest))
            rest[place], rest[-1] = rest[-1], rest[place]
            drawn.append(rest.pop())
        return drawn


class Views:
    """Pure bookkeeping; the machine opens and closes what this asks for."""

    def __init__(self, own: PeerId, draw: Draw) -> None:
        self._own = own
        self._draw = draw
        self._candidates: tuple[PeerId, ...] = ()
        self._passive: list[PeerId] = []
        self._avoided: dict[PeerId, float] = {}
        self._cut_off: dict[PeerId, float] = {}
        self._extra = 0  # links to open beyond the usual number
        self._newcomers: tuple[PeerId, ...] = ()
        self.active: dict[PeerId, None] = {}
        self.opening: dict[PeerId, float] = {}
        self.shuffle_at = math.inf

    # What the views are made of ------------------------------------------------------------------------------------

    def set_candidates(self, peers: Collection[PeerId], now: float) -> None:
        """Members believed alive. Links to others stay until they break."""
        known = frozenset(self._candidates)
        self._candidates = tuple(sorted(peer for peer in peers if peer != self._own))
        gained = tuple(peer for peer in self._candidates if peer not in known)
        for peer in gained:
            self._avoided.pop(peer, None)
        self._sample()
        if self.shuffle_at == math.inf:
            self.shuffle_at = now + limits.GOSSIP_SHUFFLE_S * (0.5 + self._draw.fraction())
        if (
            known
            and gained
            and self._draw.fraction() * len(self._candidates) < limits.GOSSIP_ACTIVE * len(gained)
        ):
            self._extra, self._newcomers = 1, gained

    def _sample(self) -> None:
        others = [peer for peer in self._candidates if peer not in self.active]
        self._passive = self._draw.some(others, limits.GOSSIP_PASSIVE)

    def shuffle(self, now: float) -> None:
        """Once in a while: a new passive view, and one more link to one of it if there are more members than links."""
        self.shuffle_at = now + limits.GOSSIP_SHUFFLE_S * (0.75 + self._draw.fraction() / 2)
        self._sample()
        self._extra = 1 if len(self.active) <= limits.GOSSIP_ACTIVE_MAX else 0
        self._avoided = {peer: until for peer, until in self._avoided.items() if until > now}
        self._cut_off = {peer: until for peer, until in self._cut_off.items() if until > now}

    # Who to ask ----------------------------------------------------------------------------------------------------

    def to_open(self, now: float) -> list[PeerId]:
        """Peers that should be asked now; they count as opening from here on."""
        lacking = max(limits.GOSSIP_ACTIVE - len(self.active), 0) + self._extra - len(self.opening)
        asked: list[PeerId] = []
        if lacking <= 0:
            return asked
        newcomers, self._newcomers = self._newcomers, ()
        for peer in (*self._draw.some(newcomers, 1), *self._passive):
            if len(asked) < lacking and self._may_ask(peer, now):
                self.opening[peer] = now + limits.GOSSIP_LINK_S
                asked.append(peer)
        self._extra = 0
        return asked

    def _may_ask(self, peer: PeerId, now: float) -> bool:
        return (
            peer not in self.active
            and peer not in self.opening
            and self._avoided.get(peer, now) <= now
            and not self.is_cut_off(peer, now)
        )

    def open_at(self) -> float:
        """When somebody may be asked again, or has not answered for too long."""
        at = min(self.opening.values()) if self.opening else math.inf
        if len(self.active) + len(self.opening) < limits.GOSSIP_ACTIVE:
            free = [
                max(self._avoided.get(peer, -math.inf), self._cut_off.get(peer, -math.inf))
                for peer in self._passive
                if peer not in self.active and peer not in self.opening
            ]
            at = min([at, *free])
        return at

    # What became of it ---------------------------------------------------------------------------------------------

    def add(self, peer: PeerId) -> None:
        """The link stands."""
        self.opening.pop(peer, None)
        self.active[peer] = None

    def admits(self, peer: PeerId, urgent: bool, now: float) -> bool:
        """Whether a peer that asks may become a neighbour. An urgent one may, even where somebody else has to go."""
        if self.is_cut_off(peer, now):
            return False
        return peer in self.active or urgent or len(self.active) < limits.GOSSIP_ACTIVE_MAX

    def remove(self, peer: PeerId) -> bool:
        """Whether it was a neighbour."""
        self.opening.pop(peer, None)
        was_active = peer in self.active
        self.active.pop(peer, None)
        return was_active

    def avoid(self, peer: PeerId, now: float, for_s: float = limits.GOSSIP_AVOID_S) -> None:
        """It had no room, or can't be reached."""
        self._avoided[peer] = now + for_s
        if peer in self._passive and len(self._candidates) > limits.GOSSIP_PASSIVE:
            others = [each for each in self._candidates if each not in self._passive]
            self._passive.remove(peer)
            self._passive += self._draw.some([each for each in others if each not in self.active], 1)

    def cut_off(self, peer: PeerId, now: float) -> None:
        """It broke the rules."""
        self._cut_off[peer] = now + limits.GOSSIP_CUT_OFF_S

    def is_cut_off(self, peer: PeerId, now: float) -> bool:
        return self._cut_off.get(peer, now) > now

    def silent(self, now: float) -> list[PeerId]:
        """Peers that were asked and have not answered in time."""
        return [peer for peer, until in self.opening.items() if until <= now]

    def surplus(self) -> PeerId | None:
        """A neighbour that may go because there are more than `GOSSIP_ACTIVE` + 1."""
        if len(self.active) <= limits.GOSSIP_ACTIVE + 1:
            return None
        return self._draw.one(list(self.active))

    def victim(self, spared: PeerId) -> PeerId | None:
        """Who goes when there are more neighbours than allowed."""
        if len(self.active) <= limits.GOSSIP_ACTIVE_MAX:
            return None
        return self._draw.one([peer for peer in self.active if peer != spared])
