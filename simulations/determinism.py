"""The same run for the same seed: trio's scheduler drawn from a seed, on a clock that moves in whole milliseconds.

trio promises no order among tasks that are ready at once. It has a switch that makes the order a function of one random
generator (the tasks of a batch are sorted by their age and then shuffled), which hypothesis uses. The switch, the generator,
the jump of a mock clock and the trap by which a task waits are private names, so trio is pinned, and before the first run of
a process a small workload runs twice: a version of trio that schedules otherwise is refused rather than half believed.

Jumps end on whole milliseconds, upwards. Many deadlines then fall into one pass of the scheduler, which costs far more than
what the tasks do in it; and equal deadlines, which trio orders by address, become one batch that is sorted.
"""

from __future__ import annotations

import hashlib
import math
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache, partial
from heapq import heappop, heappush
from typing import Any, Final, Self, TypeVar, TypeVarTuple, Unpack, cast

import outcome
import trio
from trio._core import _run as scheduler
from trio._core._instrumentation import Instruments
from trio._core._traps import WaitTaskRescheduled
from trio.testing import MockClock

from protocols.errors import LocalFault
from simulations.chance import chance

TICKS_PER_S: Final = 1000
ASKED_EVERY: Final = 64  # passes of the scheduler; a system call costs as much as a task's turn
NEVER: Final = 1 << 62
NOISE: Final = 1e-3
"""Of a tick. Sums of floats miss the millisecond they mean by far less; no time that means something lies so near one."""

_WOKEN: Final = outcome.Value[object](None)

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


def run_deterministically(
    async_fn: Callable[[Unpack[Args]], Awaitable[Result]],
    *args: *Args,
    seed: int,
    clock: TickingClock | None = None,
) -> Result:
    """`trio.run` on virtual time, with every choice of the scheduler drawn from `seed`; `clock` is one for this run alone.

    Raises `LocalFault` if this version of trio can't be held to that. Afterwards trio is as it was before.
    """
    _check_scheduler()
    return _run(partial(async_fn, *args), seed, clock or TickingClock())


@types.coroutine
def parked(leave: Callable[[object], trio.lowlevel.Abort]) -> Generator[WaitTaskRescheduled, Any, None]:
    """As `trio.lowlevel.wait_task_rescheduled`, until `wake`, with fewer steps from the scheduler to whoever waits."""
    came = yield WaitTaskRescheduled(leave)
    if came is not _WOKEN:
        came.unwrap()


def wake(task: trio.lowlevel.Task) -> None:
    """Whose wait in `parked` is over; all are sent the same, since nobody unwraps it."""
    task._runner.reschedule(task, _WOKEN)  # noqa: SLF001


def ticking_clock() -> TickingClock | None:
    """That of the run in which this is asked, if it has one; as `trio.lowlevel.current_clock`, for less."""
    clock = scheduler.GLOBAL_RUN_CONTEXT.runner.clock
    return clock if isinstance(clock, TickingClock) else None


class _Jumping(trio.abc.Clock):
    """Stands between, because of a class that is registered itself Python asks the registry every time."""


MockClock.register(_Jumping)  # type: ignore[type-abstract]  # trio lets nothing else jump


class TickingClock(_Jumping):
    """Virtual time that jumps to the next deadline whenever every task waits: a `MockClock` in whole milliseconds.

    `look` is called in every `ASKED_EVERY`th pass of the scheduler, outside all tasks; an instrument in each costs far more.
    """

    def __init__(self, look: Callable[[], None] = lambda: None) -> None:
        self._look = look
        self._kernel: _SeldomAsked | None = None
        self._deadlines = scheduler.Deadlines()
        self._tick = 0
        self.now_s = 0.0
        self._instants: list[int] = []
        self._booked: dict[int, list[Callable[[int], None]]] = {}

    def start_clock(self) -> None:
        runner = scheduler.GLOBAL_RUN_CONTEXT.runner
        runner.clock_autojump_threshold = 0
        runner.instruments = cast("Any", _PlainInstruments(runner.instruments))
        self._deadlines = runner.deadlines
        self._kernel = _SeldomAsked(runner.io_manager, self._look)
        runner.io_manager = cast("Any", self._kernel)

    def look_soon(self) -> None:
        """In the next pass; good in a handler of signals."""
        if self._kernel is not None:
            self._kernel.passes_left = 0

    def current_time(self) -> float:
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0 if deadline <= self.now_s else math.inf

    def call_at(self, tick: int, action: Callable[[int], None]) -> None:
        """Have `action` called with the tick, behind all deadlines of that time, or as soon as nothing can run any more.

        It is called outside all tasks, which is what makes it cheap: it may neither wait nor raise.
        """
        booked = self._booked.get(tick)
        if booked is None:
            self._booked[tick] = [action]
            heappush(self._instants, tick)
        else:
            booked.append(action)

    async def sleep_until(self, due_s: float) -> None:
        """As `trio.sleep_until`, for a quarter of its cost: without a scope that is entered, cancelled and left."""
        tick = tick_of(due_s)
        if tick <= self._tick:
            await trio.lowlevel.checkpoint()
            self.now_s = max(self.now_s, due_s)
            return
        sleepers = [trio.lowlevel.current_task()]

        def ring(_: int) -> None:
            self.now_s = max(self.now_s, due_s)
            for task in sleepers:
                wake(task)

        def leave(_: object) -> trio.lowlevel.Abort:
            sleepers.clear()
            if (booked := self._booked.get(tick)) is not None:  # or its time has come just now
                booked.remove(ring)
                if not booked:
                    del self._booked[tick]
            return trio.lowlevel.Abort.SUCCEEDED

        self.call_at(tick, ring)
        await parked(leave)

    def _autojump(self) -> None:
        """trio calls this when nothing can run. What is due is woken here, which saves another pass of the scheduler."""
        instants, booked = self._instants, self._booked
        while instants and instants[0] not in booked:  # all who slept until then have left
            heappop(instants)
        due_s = self._deadlines.next_deadline()
        due = tick_of(due_s) if due_s < math.inf else NEVER
        tick = min(due, instants[0]) if instants else due
        if tick == NEVER:
            return
        if tick > self._tick:
            self._tick = tick
            self.now_s = max(self.now_s, tick / TICKS_PER_S)
        else:
            tick = self._tick
        while due <= tick:
            if due_s > self.now_s:
                self.now_s = due_s  # whoever waited for a time finds that it has come
            self._deadlines.expire(self.now_s)
            due_s = self._deadlines.next_deadline()
            due = tick_of(due_s) if due_s < math.inf else NEVER
        while instants and instants[0] <= tick:
            for action in booked.pop(heappop(instants), ()):
                action(tick)


def tick_of(due_s: float) -> int:
    """The millisecond in which a deadline is due: one rule for whoever goes there and whoever wakes what is there."""
    return math.ceil(due_s * TICKS_PER_S - NOISE)


class _PlainInstruments(dict[str, dict[trio.abc.Instrument, None]]):
    """trio's own, which it asks up to eight times for every step of a task: as a dictionary, and not as a class around one."""

    add_instrument = Instruments.add_instrument
    remove_instrument = Instruments.remove_instrument
    call = Instruments.call

    @property
    def data(self) -> Self:
        return self


class _SeldomAsked:
    """trio's own way to the kernel, which it asks in every pass although in a simulation nothing comes from there.

    Signals and threads are still heard, later. Nothing that counts for a run may come from them.
    """

    def __init__(self, real: Any, look: Callable[[], None]) -> None:
        self.passes_left = ASKED_EVERY
        self._real = real
        self._look = look

    def get_events(self, timeout_s: float) -> Any:
        self.passes_left -= 1
        if self.passes_left > 0:
            return ()
        self.passes_left = ASKED_EVERY
        self._look()
        return self._real.get_events(timeout_s)

    def process_events(self, events: Any) -> None:
        if events:
            self._real.process_events(events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _run(async_fn: Callable[[], Awaitable[Result]], seed: int, clock: TickingClock) -> Result:
    with seeded_scheduler(seed), _timed_by(clock):
        return trio.run(async_fn, clock=clock)


@contextmanager
def _timed_by(clock: TickingClock) -> Iterator[None]:
    """Within it the time is that of the clock, and so are sleeps, without trio's ways around; for other threads all is as ever."""
    current_time, sleep, sleep_until = trio.current_time, trio.sleep, trio.sleep_until
    here = scheduler.GLOBAL_RUN_CONTEXT  # of whatever thread asks

    def time_now() -> float:
        try:
            if here.runner.clock is clock:
                return clock.now_s
        except AttributeError:
            pass  # nothing runs in that thread, and trio says so
        return current_time()

    async def sleep_on(seconds: float) -> None:
        if seconds > 0 and seconds != math.inf and ticking_clock() is clock:
            await clock.sleep_until(clock.now_s + seconds)
        else:
            await sleep(seconds)

    async def sleep_on_until(deadline: float) -> None:
        if abs(deadline) != math.inf and ticking_clock() is clock:
            await clock.sleep_until(deadline)
        else:
            await sleep_until(deadline)

    trio.current_time, trio.sleep, trio.sleep_until = time_now, sleep_on, sleep_on_until
    try:
        yield
    finally:
        trio.current_time, trio.sleep, trio.sleep_until = current_time, sleep, sleep_until


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Within it the order of trio's tasks is drawn from `seed`, on any clock.

    Raises `LocalFault` where this version of trio has no such order. Afterwards trio is as it was before.
    """
    try:
        before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()  # noqa: SLF001
    except AttributeError as error:
        raise LocalFault(f"trio {trio.__version__} has no scheduler to seed: {error}") from error
    _set_scheduler(is_seeded=True, state=chance(seed, "scheduler").getstate())
    try:
        yield
    finally:
        _set_scheduler(is_seeded=before[0], state=before[1])


def _set_scheduler(*, is_seeded: bool, state: tuple[object, ...]) -> None:
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = is_seeded  # type: ignore[misc]  # noqa: SLF001
    scheduler._r.setstate(state)  # noqa: SLF001


@cache
def _check_scheduler() -> None:
    one, two = (_run(_interleave, 1, TickingClock()) for _ in range(2))
    if one != two:
        raise LocalFault(
            f"trio {trio.__version__} does not repeat a run for its seed, so no simulation can be repeated: "
            "install the version that weft is pinned to"
        )


async def _interleave() -> str:
    """A digest over the order in which tasks get their turns, where nothing but the scheduler decides it."""
    seen = hashlib.blake2b()
    lock, started = trio.Lock(), trio.Event()
    send, receive = trio.open_memory_channel[int](1)

    async def work(number: int) -> None:
        await started.wait()
        for turn in range(4):
            seen.update(f"{number} {turn} {trio.current_time()} ".encode())
            async with lock:
                await trio.sleep(turn % 2 / TICKS_PER_S)
            with trio.move_on_after((turn + 1) / TICKS_PER_S):
                await send.send(number)
        try:
            await trio.sleep_forever()
        finally:
            seen.update(f"{number} ends ".encode())

    async def collect() -> None:
        async for number in receive:
            seen.update(f"got {number} ".encode())

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(work, number)
        nursery.start_soon(collect)
        started.set()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    return seen.hexdigest()
