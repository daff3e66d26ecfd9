"""What is held of one member: its state, its incarnation, and who doubts it.

The pair (incarnation, state) only ever grows, so it does not matter in which order or how often things are heard. Doubts
of incarnations past are void. A doubt of one that has not been heard of yet counts: its subject said it to somebody.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from mesh.liveness.detector import State
from protocols import limits
from protocols.ids import PeerId

NEVER: Final = -1  # heard of
MET: Final = 0  # it was connected and has not said anything yet: real incarnations begin with 1


@dataclass(slots=True)
class Doubt:
    """One monitor's suspicion. `since` is when this node heard it."""

    incarnation: int
    refused: bool
    since: float


@dataclass(slots=True)
class Standing:
    """`since` is when the state began; `doubted_at` when enough doubts for a verdict had come together, None before."""

    since: float
    state: State = State.DEAD
    incarnation: int = NEVER
    boot: bytes = b""
    doubts: dict[PeerId, Doubt] = field(default_factory=dict)
    doubted_at: float | None = None
    shown_at: float = -math.inf  # to another run than the one that is known

    @property
    def is_living(self) -> bool:
        """As far as is known: not dead, not gone."""
        return self.state <= State.SUSPECT

    def alive(self, incarnation: int, boot: bytes, now: float) -> bool:
        """Whether that was news. An incarnation that was heard before proves nothing: it may be a replay."""
        if incarnation <= self.incarnation:
            return False
        self.boot = boot
        self.doubts = {
            monitor: doubt for monitor, doubt in self.doubts.items() if doubt.incarnation >= incarnation
        }
        self.doubted_at = None
        self._become(State.ALIVE, incarnation, now)
        return True

    def left(self, incarnation: int, now: float) -> bool:
        """Whether that was news."""
        if (incarnation, State.LEFT) <= (self.incarnation, self.state):
            return False
        self.doubts.clear()
        self._become(State.LEFT, incarnation, now)
        return True

    def doubt(self, monitor: PeerId, doubt: Doubt, monitors: Collection[PeerId] = ()) -> bool:
        """Keep a suspicion; whether it says anything new. A full table makes room for `monitors` alone, who count now."""
        known = self.doubts.get(monitor)
        is_void = doubt.incarnation < self.incarnation or self.state is State.LEFT
        is_wild = doubt.incarnation > max(self.incarnation, MET) + limits.INCARNATION_JUMP_MAX
        if is_void or is_wild or (known is None and not self._has_room(monitor, monitors)):
            return False
        if known is not None:
            if (doubt.incarnation, doubt.refused) <= (known.incarnation, known.refused):
                return False
            if doubt.incarnation == known.incarnation:
                doubt = Doubt(doubt.incarnation, doubt.refused, known.since)
        self.doubts[monitor] = doubt
        return True

    def _has_room(self, monitor: PeerId, monitors: Collection[PeerId]) -> bool:
        if len(self.doubts) >= limits.SUSPICIONS_MAX and monitor in monitors:
            for other in sorted(self.doubts.keys() - set(monitors)):
                del self.doubts[other]
        return len(self.doubts) < limits.SUSPICIONS_MAX

    def weigh(self, monitors: Collection[PeerId], needed: int, now: float) -> None:
        """Take the doubts of those who are its monitors into account; `needed` of them make a verdict possible."""
        counted = self._counted(monitors)
        if len(counted) < needed:
            self.doubted_at = None
        elif self.doubted_at is None:
            self.doubted_at = now
        if counted and self.state is State.ALIVE:
            self._become(State.SUSPECT, self.incarnation, now)

    def verdict_at(self, monitors: Collection[PeerId], needed: int, refute_s: float) -> float | None:
        """When it is dead unless it refutes by then; None while too few doubt it."""
        if self.doubted_at is None:
            return None
        refused = sum(doubt.refused for doubt in self._counted(monitors))
        return self.doubted_at + (limits.REFUTE_REFUSED_S if refused >= needed else refute_s)

    def bury(self, monitors: Collection[PeerId], needed: int, now: float) -> None:
        """Dead, at the incarnation that `needed` monitors have spoken of: a single one can't push it up."""
        spoken_of = sorted((doubt.incarnation for doubt in self._counted(monitors)), reverse=True)
        incarnation = spoken_of[needed - 1] if len(spoken_of) >= needed else self.incarnation
        self._become(State.DEAD, max(incarnation, self.incarnation), now)

    def give_back(self, lost_s: float) -> None:
        """This node was held up, and with it the reading of refutations."""
        if self.doubted_at is not None:
            self.doubted_at += lost_s
        for doubt in self.doubts.values():
            doubt.since += lost_s

    def _counted(self, monitors: Collection[PeerId]) -> list[Doubt]:
        return [doubt for monitor, doubt in self.doubts.items() if monitor in monitors]

    def _become(self, state: State, incarnation: int, now: float) -> None:
        assert (incarnation, state) >= (self.incarnation, self.state)
        if (incarnation, state) != (self.incarnation, self.state):
            self.state, self.incarnation, self.since = state, incarnation, now
