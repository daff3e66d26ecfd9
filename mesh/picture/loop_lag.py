"""How late this node's own event loop is: the one thing that makes it look dead while it is not.

A heartbeat asks to be woken twice a second and notes how late that was. Whoever has an alarm of its own may note it too.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from protocols import limits

BEAT_S: Final = 0.5


class LoopLag:
    """The worst lateness of the last `LOOP_LAG_S`."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = (
            deque()
        )  # (when, how much in s), each less than the one before

    def note(self, late_s: float, now: float) -> None:
        """At most one entry per beat is kept, and of those only what is not outdone by a later one."""
        while self._late and self._late[-1][1] <= late_s:
            self._late.pop()
        self._late.append((now, late_s))
        self._forget(now)

    def lag_ms(self, now: float) -> float:
        self._forget(now)
        return self._late[0][1] * 1e3 if self._late else 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Beat until cancelled."""
        task_status.started()
        while True:
            due = trio.current_time() + BEAT_S
            await trio.sleep_until(due)
            now = trio.current_time()
            self.note(now - due, now)

    def _forget(self, now: float) -> None:
        while self._late and now - self._late[0][0] > limits.LOOP_LAG_S:
            self._late.popleft()
