"""Work that takes time without a task that sleeps for it: jobs one after the other, on a processor whose speed may change.

    processor time P: as much as was computed at full speed; stands still during a hang, passes `factor` times slower when slow

    job i runs from  max(P when it came, the end of job i-1)  for its cost, so that its end is known when it comes

A worker is a process of its own: what it was asked for goes on although whoever asked is cancelled or stopped. So a job is
carried out, in its turn, by whoever looks next after its end; nobody can tell the difference.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

import trio

from protocols.errors import WeftError, WorkerDied
from simulations.determinism import TickingClock, tick_of, ticking_clock

OutcomeT = TypeVar("OutcomeT")

_EXACT_S: Final = 1e-9  # what adding up floats may lose


class Job(Generic[OutcomeT]):
    """`act` is called once, at the end of the job: `outcome` is what it gives. What it raises of `WeftError` is raised to whoever
    waits."""

    __slots__ = (
        "_act",
        "began_s",
        "cost_s",
        "end",
        "ended_s",
        "failure",
        "is_over",
        "outcome",
        "start",
        "what",
    )

    def __init__(self, what: object, start: float, cost_s: float, act: Callable[[], OutcomeT]) -> None:
        self.what = what
        self.start = start  # in processor time
        self.end = start + cost_s
        self.cost_s = cost_s
        self.began_s: float | None = None  # on trio's clock
        self.ended_s = 0.0
        self.outcome: OutcomeT | None = None
        self.failure: WeftError | None = None
        self.is_over = False
        self._act = act

    def carry_out(self) -> None:
        try:
            self.outcome = self._act()
        except WeftError as error:
            self.failure = error
        self.is_over = True

    def die(self) -> None:
        self.failure, self.is_over = WorkerDied("the worker ended"), True


class Processor:
    """One thing at a time, first come, first served."""

    def __init__(self) -> None:
        self._jobs: deque[Job[Any]] = deque()
        self._factor = 1.0
        self._hangs = False
        self._set_at = 0.0  # trio's clock and processor time when the speed was last set
        self._set_time = 0.0
        self._bells: dict[trio.Event, None] = {}  # of those who wait for their job
        self._told: dict[Job[Any], Callable[[], None]] = {}  # those who are to be told of its end

    @property
    def factor(self) -> float:
        """How many times longer everything takes than at full speed."""
        return self._factor

    @property
    def waiting(self) -> int:
        """Jobs that wait for one before them."""
        self.settle()
        return max(0, len(self._jobs) - 1)

    def post(self, what: object, cost_s: float, act: Callable[[], OutcomeT]) -> Job[OutcomeT]:
        """A job behind all others."""
        self.settle()
        start = self._jobs[-1].end if self._jobs else self._time()
        job = Job(what, start, cost_s, act)
        self._jobs.append(job)
        return job

    async def outcome(self, job: Job[OutcomeT]) -> OutcomeT:
        """What it comes to, when it is done. Raises what the job raises, or `WorkerDied`."""
        await self.until(job)
        assert job.outcome is not None
        return job.outcome

    async def until(self, job: Job[Any], share: float = 1.0) -> None:
        """Returns when that share of a job is done; at once if it is. Raises as `outcome`."""
        while True:
            self.settle()
            if job.is_over:
                break
            left_s = job.start + job.cost_s * share - self._time()
            if left_s <= _EXACT_S and share < 1:
                break
            await self._wait(math.inf if self._hangs else max(left_s, _EXACT_S) * self._factor)
        if job.failure is not None:
            raise job.failure

    def tell_end(self, job: Job[Any], tell: Callable[[], None]) -> None:
        """Have `tell` called, once, as soon as `until(job)` would not wait; outside all tasks, or in that which ended it."""
        self._told[job] = tell
        self._watch(job)

    def _watch(self, job: Job[Any]) -> None:
        if self._hangs:
            return  # until the speed is set
        clock = ticking_clock()
        if clock is not None:
            left_s = max(job.end - self._time(), _EXACT_S) * self._factor
            _call_in(clock, left_s, lambda _: self._look_at(job))
        else:
            trio.lowlevel.spawn_system_task(self._wait_for, job)

    def _look_at(self, job: Job[Any]) -> None:
        if job not in self._told:
            return
        if job.is_over or job.end <= self._time() + _EXACT_S:
            self._told.pop(job)()
        else:
            self._watch(job)

    async def _wait_for(self, job: Job[Any]) -> None:
        with suppress(WeftError):
            await self.until(job)
        self._look_at(job)

    async def _wait(self, for_s: float) -> None:
        """Until that time has passed, or the speed has changed."""
        bell = trio.Event()
        self._bells[bell] = None
        try:
            clock = ticking_clock()
            if clock is not None:  # costs less than a cancel scope
                if for_s < math.inf:
                    _call_in(clock, for_s, lambda _: bell.set())
                await bell.wait()
            else:
                with trio.move_on_after(for_s):
                    await bell.wait()
        finally:
            del self._bells[bell]

    def running(self) -> tuple[Job[Any], float] | None:
        """The job under way and the share of it that is done."""
        self.settle()
        if not self._jobs or self._jobs[0].cost_s <= 0:
            return None
        job = self._jobs[0]
        return job, min(1.0, max(0.0, (self._time() - job.start) / job.cost_s))

    def settle(self) -> None:
        """Carry out what has ended by now, in its turn."""
        if not self._jobs:
            return
        time = self._time() + _EXACT_S
        while self._jobs and self._jobs[0].end <= time:
            job = self._jobs.popleft()
            job.began_s = self._at(job.start) if job.began_s is None else job.began_s
            job.ended_s = self._at(job.end)
            job.carry_out()

    def set_speed(self, *, factor: float | None = None, hangs: bool | None = None) -> None:
        self.settle()
        if self._jobs and self._jobs[0].began_s is None and self._jobs[0].start <= self._time():
            self._jobs[0].began_s = self._at(self._jobs[0].start)
        self._set_time, self._set_at = self._time(), trio.current_time()
        self._factor = self._factor if factor is None else factor
        self._hangs = self._hangs if hangs is None else hangs
        self._tell()

    def die(self) -> None:
        """Every job fails with `WorkerDied`, and a hang is over."""
        for job in self._jobs:
            job.die()
        self._jobs.clear()
        self.set_speed(hangs=False)

    def _tell(self) -> None:
        for bell in self._bells:
            bell.set()
        for job in tuple(self._told):
            self._look_at(job)

    def _time(self) -> float:
        if self._hangs:
            return self._set_time
        return self._set_time + (trio.current_time() - self._set_at) / self._factor

    def _at(self, time: float) -> float:
        return self._set_at + (time - self._set_time) * self._factor


def _call_in(clock: TickingClock, for_s: float, call: Callable[[int], None]) -> None:
    now = clock.current_time()
    # A millisecond begins a little before it is due: whoever lacks less than that comes back in the next.
    clock.call_at(max(tick_of(now + for_s), tick_of(now) + 1), call)
