"""Where a route loses rows though all of its stages are up: behind the last one that has them all.

           has all rows      lacks some
    entry -----> stage --- ? ---> stage ---> ...

Which of the two at that gap keeps rows to itself, or whether it is the link between them, the entry can't see: first the row is
fed again, since it may have been lost only once; then one of the two is replaced, and if that was the wrong one, the other.
Whoever lies about its rows stands at a gap all the same, because its neighbours don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from inference.sessions.place import Place
from protocols import limits
from protocols.ids import PeerId

FORGOTTEN_TOKENS: Final = 64
"""After so many tokens a lost row is forgiven; more than `CREDITS_PER_SESSION`, so that credits kept back are noticed."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The places beside it, the more suspicious first, and what to tell whoever asks why."""

    suspects: tuple[int, ...]
    told: str

    def beside(self, index: int) -> int | None:
        """The other one of them."""
        return next((other for other in self.suspects if other != index), None)


@dataclass(slots=True)
class Leak:
    """What the entry remembers of rows that got lost; `nudges` are the times that it has fed them again, to the same stages."""

    nudges: int = 0
    _at_token: int = 0
    _doubted: set[PeerId] = field(default_factory=set)

    def idle_s_max(self, tokens: int) -> float:
        """How long all stages may be idle while a token is due: longer each time, since on a slow link a row may be neither
        lost nor there yet."""
        if tokens - self._at_token > FORGOTTEN_TOKENS:
            self.nudges = 0
            self._doubted.clear()
        return limits.IDLE_S * (1 + self.nudges)

    def note(self, places: Sequence[Place], epoch: int, tokens: int) -> Gap:
        """Rows got lost once more, with so many tokens in the log."""
        self._at_token = tokens
        found = gap(places, epoch, tokens)
        # Who stood at the gap before as well comes first: the other one has just taken its place.
        suspects = sorted(found, key=lambda index: places[index].peer not in self._doubted)
        self._doubted.update(places[index].peer for index in found)
        return Gap(tuple(suspects), _told(places, found))


def gap(places: Sequence[Place], epoch: int, rows: int) -> tuple[int, ...]:
    """The first place that lacks rows, and the one before it; at either end of the route, only one of them."""
    behind = next((index for index, place in enumerate(places) if place.reached < (epoch, rows)), len(places))
    return tuple(index for index in (behind, behind - 1) if 0 <= index < len(places))


def _told(places: Sequence[Place], found: tuple[int, ...]) -> str:
    if len(found) == 2:
        behind, before = found
        return f"rows get lost between layers {places[before].range} and layers {places[behind].range}"
    (index,) = found
    return f"layers {places[index].range} are fed and {'give no token' if index else 'take no rows'}"
