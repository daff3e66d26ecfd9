"""One trial, for a mesh of real processes and for a simulated one: what is done, and what is read off.

Eight nodes hold one layer each, with the next one's as a standby. A client of the first asks for an answer; in the middle of
it the holder of a middle range ends (SIGKILL) or stands still (SIGSTOP). The answer is heard as a client hears it; the verdicts
of the failure detectors are those that the survivors log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

Act = Literal["kill", "stop"]
ACTS: Final[tuple[Act, ...]] = ("kill", "stop")

NODES: Final = 8
LAYERS: Final = 8
TOKENS: Final = 80
AT_TOKEN: Final = 24  # after that many the act comes
PROMPT: Final = "Once upon a time"
POLL_S: Final = 0.01
KNOWN_WITHIN_S: Final = 30.0


@dataclass(slots=True)
class Readings:
    """Times of one clock. `known_at_s`: when each survivor called the lost node dead; `token_at_s` when each was heard."""

    act: Act
    acted_at_s: float = 0.0
    known_at_s: dict[str, float] = field(default_factory=dict)
    token_at_s: list[float] = field(default_factory=list)
    lost: str = ""
    moved_from: list[str] = field(default_factory=list)

    @property
    def figures(self) -> Figures:
        known = [at_s - self.acted_at_s for at_s in self.known_at_s.values()]
        gaps = [
            after - before
            for before, after in zip(self.token_at_s, self.token_at_s[1:], strict=False)
            if after >= self.acted_at_s
        ]
        return Figures(min(known), max(known), max(gaps))


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from the act to the first survivor that called the lost node dead, and to the last; and the pause in the answer."""

    first_s: float
    all_s: float
    pause_s: float


@dataclass(frozen=True, slots=True)
class Band:
    """Of one figure over many trials."""

    least_s: float
    most_s: float

    @classmethod
    def over(cls, values_s: list[float]) -> Band:
        return cls(min(values_s), max(values_s))

    def widened(self, down_s: float, up_s: float) -> Band:
        return Band(self.least_s - down_s, self.most_s + up_s)

    def holds(self, value_s: float) -> bool:
        return self.least_s <= value_s <= self.most_s

    def __str__(self) -> str:
        return f"{self.least_s:.3f} to {self.most_s:.3f} s"
