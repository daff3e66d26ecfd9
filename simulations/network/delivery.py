"""What carries everything: a heap of instants, and for each the wires on which something is due then.

Times are whole milliseconds, rounded up, so that much of what happens in a mesh falls into few passes of the scheduler; that
is what a simulation's speed hangs on. Within an instant wires come in the order in which they were booked.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Final, Protocol

import trio

from simulations.determinism import ticking_clock

TICKS_PER_S: Final = 1000
NOISE: Final = 1e-3
"""Of a tick: sums of floats miss the millisecond they mean by far less."""


def ceil_ms(time_s: float) -> int:
    """The first whole millisecond that is not before `time_s`."""
    return math.ceil(time_s * TICKS_PER_S - NOISE)


class Due(Protocol):
    def deliver(self, now_ms: int) -> None:
        """Carry out what is due. May not raise: nobody is there who could hear it."""


class Delivery:
    """On the clock of a deterministic run; elsewhere a system task, which begins with the first booking and lives as long as the run.

    It belongs to no node, so that none can stop or pause it.
    """

    def __init__(self) -> None:
        self._instants: list[int] = []
        self._due: dict[int, list[Due]] = {}
        self._run: trio.lowlevel.TrioToken | None = None
        self._asleep = trio.CancelScope()
        self._wake_ms = -1  # it is awake, or there is no task

    def book(self, at_ms: int, due: Due) -> None:
        """Have `due.deliver` called at that time, or as soon as possible if it has passed."""
        clock = ticking_clock()
        if clock is not None:
            clock.call_at(at_ms, due.deliver)
            return
        booked = self._due.get(at_ms)
        if booked is not None:
            booked.append(due)
            return
        self._due[at_ms] = [due]
        heappush(self._instants, at_ms)
        if at_ms < self._wake_ms:
            self._wake_ms = at_ms
            self._asleep.deadline = at_ms / TICKS_PER_S
        elif self._wake_ms < 0:
            self._see_that_it_runs()

    def _see_that_it_runs(self) -> None:
        run = trio.lowlevel.current_trio_token()
        if self._run is not run:
            self._run = run
            trio.lowlevel.spawn_system_task(self._carry)

    async def _carry(self) -> None:
        try:
            while True:
                self._deliver_due()
                # Nothing else costs less: no task, scope or event per message, and an earlier booking moves the deadline.
                self._wake_ms = self._instants[0] if self._instants else 1 << 62
                self._asleep = trio.CancelScope(
                    deadline=self._wake_ms / TICKS_PER_S if self._instants else math.inf
                )
                with self._asleep:
                    await trio.sleep_forever()
                self._wake_ms = -1
        finally:
            self._wake_ms, self._run = -1, None

    def _deliver_due(self) -> None:
        now_ms = math.floor(trio.current_time() * TICKS_PER_S + NOISE)
        while self._instants and self._instants[0] <= now_ms:
            for due in self._due.pop(heappop(self._instants)):
                due.deliver(now_ms)
