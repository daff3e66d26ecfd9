"""How long to wait before a worker that has ended is started again. Pure: the time is handed in."""

from __future__ import annotations

from dataclasses import dataclass

from protocols import limits


@dataclass(slots=True)
class Restarts:
    """The first restart is at once, so that a lone crash costs no pause; those that follow it closely wait ever longer."""

    _started_at: float = 0.0
    _failures: int = 0

    def started(self, now: float) -> None:
        self._started_at = now

    def delay_s(self, now: float) -> float:
        """To be asked once after each end."""
        if now - self._started_at >= limits.WORKER_STEADY_S:
            self._failures = 0
        self._failures += 1
        if self._failures == 1:
            return 0.0
        return min(limits.WORKER_RESTART_S_MIN * 2.0 ** (self._failures - 2), limits.WORKER_RESTART_S_MAX)
