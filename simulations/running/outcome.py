"""What a run has shown, as data: for the line on the terminal, for sweeps and for reports."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

FORMAT: Final = 1


class Violation(Struct, frozen=True):
    """An invariant that did not hold, at a virtual time, on the nodes named."""

    invariant: str
    sentence: str
    at_s: float
    nodes: tuple[str, ...]
    detail: str


class Failover(Struct, frozen=True):
    """A session lost a stage and went on: `pause_s` is what its reader felt."""

    at_s: float
    lost: str
    to: str
    pause_s: float
    reason: str


class RequestOutcome(Struct, frozen=True):
    """`lost`: its entry node died, which ends what its client sees, or was being stopped when it was asked. `unfinished`: it was under way when the run ended."""

    index: int
    entry: str
    status: Literal["finished", "cancelled", "failed", "lost", "unfinished"]
    began_s: float
    ended_s: float
    detail: str = ""
    token_at_s: tuple[float, ...] = ()
    failovers: tuple[Failover, ...] = ()
    is_exact: bool = True


class Detection(Struct, frozen=True):
    """Nodes called `node` dead. `down_at_s` is when it really went down, None for a false death."""

    node: str
    down_at_s: float | None
    first_s: float
    all_s: float | None


class Mark(Struct, frozen=True):
    """A fault, for the plots."""

    at_s: float
    until_s: float
    label: str


class Outcome(Struct, frozen=True):
    """Of one run. `digest` is over everything that crossed a wire and when; `missed` the expectations that did not hold, each
    as "name: sentence"; `tail` the last events of the nodes of the first violation. A run that somebody interrupted is told as
    far as it came, and no expectation counts for it."""

    scenario: str
    seed: int
    nodes: int
    virtual_s: float
    wall_s: float
    events: int
    digest: str
    violations: tuple[Violation, ...] = ()
    missed: tuple[str, ...] = ()
    requests: tuple[RequestOutcome, ...] = ()
    detections: tuple[Detection, ...] = ()
    marks: tuple[Mark, ...] = ()
    tail: tuple[str, ...] = ()
    interrupted: bool = False
    format: Literal[1] = FORMAT

    @property
    def is_good(self) -> bool:
        return not (self.violations or self.missed)
