"""Sees to it that a run ends: virtual time that stands still, and an operator who wants no more of it.

Trio goes round its loop without the clock moving while tasks hand work to each other. That may be deep, but it ends; where it
does not, either somebody works without ever waiting, or everybody waits for what nobody will do.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT, CancelStatus

from simulations.determinism import ASKED_EVERY, TickingClock
from simulations.running.outcome import Violation

ROUNDS_MAX: Final = 50_000
"""Of trio's loop at one instant. 200 daemons that start at once take less than 1,000; so many pass in seconds."""
WATCHED_ROUNDS: Final = 16 * ASKED_EVERY
"""The last of them, in which the tasks that run are counted."""
SENTENCE: Final = "Virtual time goes on: whoever works comes to wait, and whoever waits is woken in the end."


class Guard:
    """Looks at the run on its `clock`, which is for one run. `on_end` is called, once, when the run has to end: `violations` then says why, or `is_interrupted` is set.

    Where a run stands still after that too, somebody is shielded: no shield counts any more. At the third time the run is
    aborted: trio then raises `TrioInternalError`, and `was_aborted` is set.
    """

    def __init__(self, on_end: Callable[[], None], rounds_max: int = ROUNDS_MAX) -> None:
        self.clock = TickingClock(self._look)
        self.violations: list[Violation] = []
        self.is_interrupted = False
        self.was_aborted = False
        self._on_end = on_end
        self._rounds_max = rounds_max
        self._has_ended = self._has_unshielded = False
        self._looked_at_s = -1.0
        self._rounds = 0  # since the first look at this instant
        self._steps: _Steps | None = None

    @property
    def at_s(self) -> float:
        """The virtual time, also after the run."""
        return self.clock.current_time()

    def _look(self) -> None:
        if self.is_interrupted and not self._has_ended:
            self._end()
        if self.at_s != self._looked_at_s:
            self._looked_at_s, self._rounds = self.at_s, 0
            self._stop_counting()
            return
        self._rounds += ASKED_EVERY
        if self._steps is None and self._rounds >= self._rounds_max - WATCHED_ROUNDS:
            self._steps = _Steps()
            trio.lowlevel.add_instrument(self._steps)
        elif self._rounds >= self._rounds_max:
            self._rounds = 0
            self._end_standstill()
            self._stop_counting()

    def _stop_counting(self) -> None:
        if self._steps is not None:
            trio.lowlevel.remove_instrument(self._steps)
            self._steps = None

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The first SIGINT ends the run with what is known by then; the second is Python's again."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.is_interrupted = True
            self.clock.look_soon()
            signal.signal(signal.SIGINT, signal.default_int_handler)

        is_ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if not is_ours:
            yield
            return
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _end_standstill(self) -> None:
        if not self.violations:
            self.violations.append(self._standing_still())
        if not self._has_ended:
            self._end()
        elif not self._has_unshielded:
            self._has_unshielded = True
            _unshield_all()
        else:
            self.was_aborted = True
            GLOBAL_RUN_CONTEXT.runner.clock = _BrokenClock()

    def _standing_still(self) -> Violation:
        if self._steps is not None and self._steps.by_task:
            busiest = ", ".join(f"{name} {count} times" for name, count in self._steps.by_task.most_common(5))
            detail = f"{self._rounds_max} rounds at one instant; in the last {WATCHED_ROUNDS} of them ran {busiest}"
        else:
            detail = "everybody waits, nobody has a deadline, and somebody does not even end when cancelled"
        return Violation("L7", SENTENCE, self.at_s, (), detail)

    def _end(self) -> None:
        self._has_ended = True
        self._on_end()


class _Steps(trio.abc.Instrument):
    """How often each task ran."""

    def __init__(self) -> None:
        self.by_task: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.by_task[task.name] += 1


def _unshield_all() -> None:
    for task in sorted(GLOBAL_RUN_CONTEXT.runner.tasks, key=lambda task: task._counter):  # noqa: SLF001
        status: CancelStatus | None = task._cancel_status  # noqa: SLF001
        while status is not None:
            status._scope.shield = False  # noqa: SLF001
            status = status._parent  # noqa: SLF001


class _BrokenClock(trio.abc.Clock):
    """Ends trio's loop at its next look: an instrument can't."""

    def start_clock(self) -> None: ...

    def current_time(self) -> NoReturn:
        raise trio.TrioInternalError("virtual time stands still")

    def deadline_to_sleep_time(self, deadline: float) -> float:
        del deadline
        return 0.0
