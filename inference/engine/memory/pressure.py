"""How short of memory a node is, and what it does about it before the kernel kills something. Pure: no clock, no I/O.

    NORMAL  --what is not spoken for < high mark, or the worker past what it may have--> HIGH      no new sessions, no prompts kept
    HIGH    --what is there < critical mark-------------------------------------------> CRITICAL  small turns, ranges are let go of
    back    one level at a time, each after CALM_S in which half as much again as its mark was there

Up at once and down slowly: a level that comes and goes would have sessions refused and taken in turns. The high mark is a 16th of
the memory (of the machine, or of the control group if that allows less), within MARK_BYTES_MIN and MARK_BYTES_MAX, and the
critical one half of that. Rows that sessions were promised and have not written yet have no pages; they are spoken for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from protocols import limits

CALM_S: Final = 10.0
SHED_S: Final = 5.0  # between two ranges that are let go of: the first must show in the readings
MARGIN: Final = 1.5
WORKER_MARGIN: Final = 1.05
MARK_SHARE: Final = 16
MARK_BYTES_MIN: Final = 128 * limits.MIB  # a chunk of a prompt at hidden 8192 with its logits, and the daemon
MARK_BYTES_MAX: Final = 4096 * limits.MIB
PINCHED_ROWS: Final = 4  # of a turn; as many as a lone row is padded to in exact numerics


class Level(IntEnum):
    NORMAL = 0
    HIGH = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes. `available` of `total` the machine or the control group can still give, swap left out.

    `promised`: of rows that sessions have reserved and not written. `worker`: what the torch process has to itself, of which it
    may have `allowed`. `kept`: of prompts, for later sessions. `is_elsewhere`: what the worker holds lies on a card, and nothing of
    that is promised or kept here.
    """

    available: int
    total: int
    promised: int
    worker: int
    allowed: int
    kept: int = 0
    is_elsewhere: bool = False

    @property
    def unspoken(self) -> int:
        """Neither used nor promised; negative if more was promised than there is."""
        return self.available - self.promised


@dataclass(frozen=True, slots=True)
class Refuse:
    """Open no more sessions, for that reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Accept:
    """Open sessions again."""


@dataclass(frozen=True, slots=True)
class LimitRows:
    """At most that many rows in a turn of the worker; None: as many as are worth it. Said again while it holds."""

    rows: int | None


@dataclass(frozen=True, slots=True)
class DropPrefixes:
    """Let go of what is kept of prompts for later sessions; nobody is worse off but by time."""


@dataclass(frozen=True, slots=True)
class ShedRange:
    """Let go of a range that others can spare this node; if there is none, tell the operator."""


Action = Refuse | Accept | LimitRows | DropPrefixes | ShedRange


def high_mark_bytes(total_bytes: int) -> int:
    """With less than this left, nothing new is taken on."""
    return min(max(total_bytes // MARK_SHARE, MARK_BYTES_MIN), MARK_BYTES_MAX)


def room_bytes(available_bytes: int, total_bytes: int) -> int:
    """What may still be promised so that the level stays normal, and would come back to it; negative if too much is."""
    return available_bytes - int(MARGIN * high_mark_bytes(total_bytes))


class Pressure:
    """`level` and, in words, `reason`: empty while it is normal."""

    def __init__(self) -> None:
        self.level = Level.NORMAL
        self.reason = ""
        self._calm_since_s: float | None = None
        self._shed_s = 0.0

    def handle(self, reading: Reading, now: float) -> list[Action]:
        before = self.level
        self._move(reading, now)
        if self.level:
            self.reason = _reason(reading)
        actions: list[Action] = []
        if self.level and not before:
            actions.append(Refuse(self.reason))
        if self.level and reading.kept:  # again and again: sessions that are under way leave more
            actions.append(DropPrefixes())
        if self.level is Level.CRITICAL:
            actions += self._relieve(reading, before, now)
        elif before is Level.CRITICAL:
            actions.append(LimitRows(None))
        if before and not self.level:
            self.reason = ""
            actions.append(Accept())
        return actions

    def _move(self, reading: Reading, now: float) -> None:
        reached, calm = _reached(reading), _calm_below(reading)
        if reached > self.level:
            self.level, self._calm_since_s = reached, None
        elif calm >= self.level:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now
        elif now - self._calm_since_s >= CALM_S:
            self.level, self._calm_since_s = Level(self.level - 1), now

    def _relieve(self, reading: Reading, before: Level, now: float) -> list[Action]:
        if before is Level.CRITICAL and now - self._shed_s < SHED_S:
            return []
        self._shed_s = now
        limit = LimitRows(PINCHED_ROWS)  # again: a worker that was started meanwhile knows of no limit
        # To let go of a range on a card gives the machine nothing.
        return [limit] if reading.is_elsewhere else [limit, ShedRange()]


def _reached(reading: Reading) -> Level:
    mark_bytes = high_mark_bytes(reading.total)
    if reading.available < mark_bytes // 2:
        return Level.CRITICAL
    is_short = reading.unspoken < mark_bytes or reading.worker > reading.allowed
    return Level.HIGH if is_short else Level.NORMAL


def _calm_below(reading: Reading) -> Level:
    """The level that can be gone back to: it would not be reached with somewhat less memory either."""
    return _reached(
        replace(
            reading,
            available=int(reading.available / MARGIN),
            promised=int(reading.promised / MARGIN),
            worker=int(reading.worker * WORKER_MARGIN),
        )
    )


def _reason(reading: Reading) -> str:
    if reading.worker > reading.allowed:
        return f"its worker has taken {_mib(reading.worker)}, and may take {_mib(reading.allowed)}"
    free_bytes = max(0, reading.unspoken)
    return f"it is short of memory: {_mib(free_bytes)} of {_mib(reading.total)} are neither used nor promised"


def _mib(count: int) -> str:
    return f"{count / limits.MIB:,.0f} MiB"
