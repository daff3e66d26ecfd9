"""A place in a route: who fills it, how far that stage is known to be, and whether it is well.

A stage is silent if nothing is heard of it, and stands still if it owes a result while its worker does not advance with
anybody's rows. It is given `STALL_STEPS` times its last measured step, made longer in proportion where the step at hand has
more rows than that one, those of all sessions together: r rows take about a + b r, so this errs on the side of patience.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols import limits
from protocols.errors import NoRoute, Overloaded, Unavailable
from protocols.ids import PeerId, shortened
from protocols.placement import LayerRange
from protocols.session import Progress


@dataclass(slots=True)
class Place:
    """`heard_s` and `advanced_s` are the times of the last sign of life and of the last step forward."""

    peer: PeerId
    range: LayerRange
    heard_s: float
    advanced_s: float
    incarnation: int = 0
    opened: bool = False
    epoch: int = 0  # the one it is known to have entered
    fresh: bool = True  # opened since the last time the session ran
    busy: bool = False
    late: bool = False  # noted already, since it last advanced
    rows: int = 0
    work: int = 0
    step_ms: float = 0.0
    step_rows: int = 0
    reached: tuple[int, int] = (0, 0)  # the epoch it reports from, and its rows
    kept: int = 0  # rows that an earlier session left it
    base: int = 0  # the first row that came in, and so the first of its journal

    def report(self, progress: Progress, now: float) -> bool:
        """Take note; whether this stage has rows that it had not. Its worker may have advanced with those of others."""
        if progress.work != self.work or not progress.busy:
            self.advanced_s = now
            self.late = False
        has_moved = progress.rows != self.rows
        self.rows, self.work, self.busy = progress.rows, progress.work, progress.busy
        self.reached = progress.epoch, progress.rows
        self.step_ms, self.step_rows = progress.step_ms, progress.step_rows
        return has_moved

    def excuse(self, late_s: float, now: float) -> None:
        """Do not count a time in which nothing could be heard here."""
        self.heard_s = min(now, self.heard_s + late_s)
        self.advanced_s = min(now, self.advanced_s + late_s)

    def is_heard(self, now: float) -> bool:
        return now - self.heard_s < limits.STALL_S_MIN

    def ailment(self, now: float, rows: int) -> str:
        """What is wrong with it, if it has up to `rows` rows in a step; empty if it is well."""
        silent_s, standing_s = now - self.heard_s, now - self.advanced_s
        if silent_s > self._patience_s(1):
            return f"silent for {silent_s:.1f} s"
        if standing_s > self._patience_s(rows) and (self.step_rows or standing_s > limits.FIRST_STEP_S):
            return f"without progress for {standing_s:.1f} s"
        return ""

    def irreplaceable(self, reason: str, *, is_busy: bool) -> Unavailable:
        """What ends a session when its peer is lost and nobody stands by. `is_busy`: it was not begun, because whoever holds
        the range takes no more."""
        if is_busy:
            return Overloaded(f"nobody takes layers {self.range} now ({reason}): try again in a moment.")
        return NoRoute(
            f"no standby is left for layers {self.range}, which {shortened(self.peer)} held ({reason}). "
            "See 'weft status'; offer the model again with 'weft offer' when more nodes are up."
        )

    def _patience_s(self, rows: int) -> float:
        if not self.opened:
            return limits.REPLY_S
        expected_s = self.step_ms / 1000 * max(1.0, rows / max(1, self.step_rows))
        return max(limits.STALL_S_MIN, limits.STALL_STEPS * expected_s)
