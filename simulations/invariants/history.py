"""What really happened to one machine, for judging what others think of it: when it was down or stood still, as whom it ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from protocols.ids import PeerId
from simulations.invariants.sight import Sight

if TYPE_CHECKING:
    from simulations.cluster.node import SimulatedNode

STILL_S: Final = 0.3
"""A machine that stood still that long, with the deadlines that ran meanwhile, may have looked dead."""


@dataclass(slots=True)
class Span:
    """From `began_s` to `ended_s`, None while it lasts."""

    began_s: float
    ended_s: float | None = None

    def covers(self, at_s: float, after_s: float = 0.0) -> bool:
        return self.began_s <= at_s and (self.ended_s is None or at_s <= self.ended_s + after_s)


@dataclass(slots=True)
class History:
    """Looked at again and again; spans are as exact as the looks are frequent."""

    node: SimulatedNode
    downs: list[Span] = field(default_factory=list)
    pauses: list[Span] = field(default_factory=list)
    spoken: dict[PeerId, int] = field(default_factory=dict)  # the highest incarnation of each identity
    run_began_s: float = 0.0
    first_incarnation: int = 0  # of the present run
    had_a_full_disk: bool = False
    is_paused: bool = False
    peer: PeerId | None = None  # as whom it runs, or ran last
    _run: int = -1
    _last: Sight | None = None

    def look(self, sight: Sight | None, now: float) -> None:
        self.had_a_full_disk |= self.node.disk.is_full
        if self._last is not None and self._last is not sight:
            self._hear(self._last)  # what it said between the last look and its end
        self._last = sight
        if sight is None:
            if self._run >= 0 and self._is_over(self.downs):
                self.downs.append(Span(self.node.down_at_s if self.node.down_at_s is not None else now))
        else:
            self._look_at_run(sight, now)
        was_paused, self.is_paused = self.is_paused, self.node.is_paused
        if self.is_paused and not was_paused:
            self.pauses.append(Span(now))
        elif was_paused and not self.is_paused:
            self.pauses[-1].ended_s = now

    def _look_at_run(self, sight: Sight, now: float) -> None:
        if sight.run != self._run:
            if self._run >= 0 and self._is_over(self.downs) and self.node.starts != self._run:
                self.downs.append(Span(now))  # down and up again between two looks
            self._run, self.run_began_s = sight.run, now
            self.first_incarnation, self.peer = sight.detector.incarnation, sight.peer
            if self.downs and self.downs[-1].ended_s is None:
                self.downs[-1].ended_s = now
        self._hear(sight)

    def _hear(self, sight: Sight) -> None:
        self.spoken[sight.peer] = max(self.spoken.get(sight.peer, 0), sight.detector.incarnation)

    @staticmethod
    def _is_over(spans: list[Span]) -> bool:
        return not spans or spans[-1].ended_s is not None

    def down_at(self, at_s: float, peer: PeerId, incarnation: int) -> Span | None:
        """The time down that a verdict of `at_s` is about, if there was one."""
        is_past = peer != self.peer or incarnation < self.first_incarnation
        for span in reversed(self.downs):
            is_of_last_run = span is self.downs[-1] and is_past
            if span.covers(at_s) or (span.began_s <= at_s and is_of_last_run):
                return span
        return None

    def stood_still(self, since_s: float, until_s: float) -> bool:
        """Whether it stood still for a while that ended no earlier than `since_s`."""
        return any(
            span.began_s <= until_s and (span.ended_s is None or span.ended_s >= since_s)
            for span in self.pauses
        )

    @property
    def has_kept_its_disk(self) -> bool:
        """Whether all that it ever wrote is there."""
        return not self.node.disk.was_damaged and len(self.spoken) < 2

    @property
    def has_kept_everything(self) -> bool:
        """Whether its disk has in addition taken all that it was given."""
        return self.has_kept_its_disk and not self.had_a_full_disk
