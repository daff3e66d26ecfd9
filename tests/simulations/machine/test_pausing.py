"""A stopped process among others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from simulations.machine.pausing import Pauses
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME


@dataclass
class Process:
    """Tasks under one root that count their turns, one every second."""

    turns: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, *, task_status: trio.TaskStatus[trio.lowlevel.Task]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self._tick)
                task_status.started(trio.lowlevel.current_task())

    async def _tick(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_deeper)

    async def _tick_deeper(self) -> None:
        while True:
            await trio.sleep(1)
            self.turns.append(trio.current_time())

    async def note(self, what: str) -> None:
        self.others.append(what)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@asynccontextmanager
async def running(pauses: Pauses) -> AsyncIterator[trio.Nursery]:
    """Where processes run; they end with it."""
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        finally:
            pauses.resume_all()
            nursery.cancel_scope.cancel()


async def test_a_paused_process_has_no_turn_and_others_go_on(pauses: Pauses) -> None:
    one, two = Process(), Process()
    async with running(pauses) as nursery:
        root = await nursery.start(one.run)
        await nursery.start(two.run)
        await trio.sleep_until(2.25)
        pauses.pause(root)
        await trio.sleep_until(5.5)
        assert one.turns == [1, 2]
        assert two.turns == [1, 2, 3, 4, 5]
        pauses.resume(root)
        await trio.sleep_until(7.25)
        # What fell due at 3 came at 5.5, and each of the next a second after the one before.
        assert one.turns == [1, 2, 5.5, 6.5]


async def test_tasks_that_were_ready_when_the_pause_came_are_held_too(pauses: Pauses) -> None:
    process = Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        process.nursery.start_soon(process.note, "before")
        pauses.pause(root)
        await trio.sleep_until(1.5)
        assert process.others == []
        pauses.resume(root)
        await trio.sleep_until(2.25)
        assert process.others == ["before"]


async def test_tasks_that_others_start_in_it_wait_for_the_end_of_the_pause(pauses: Pauses) -> None:
    process = Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        pauses.pause(root)
        for number in range(3):
            process.nursery.start_soon(process.note, str(number))
        await trio.sleep_until(1.5)
        assert process.others == []
        pauses.resume(root)
        await trio.sleep_until(2.25)
        assert sorted(process.others) == ["0", "1", "2"]


async def test_a_time_limit_that_ran_out_in_the_pause_counts(pauses: Pauses) -> None:
    ended: list[tuple[bool, float]] = []
    answered = trio.Event()

    async def ask() -> None:
        with trio.move_on_after(2) as limit:
            await answered.wait()
        ended.append((limit.cancelled_caught, trio.current_time()))

    process = Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        process.nursery.start_soon(ask)
        await trio.sleep_until(1.25)
        pauses.pause(root)
        await trio.sleep_until(4.5)
        answered.set()  # too late, though nobody down there has noticed yet
        pauses.resume(root)
        await trio.sleep_until(5.25)
        assert ended == [(True, 4.5)]


async def test_an_answer_that_came_before_its_time_limit_ran_out_is_no_failure(pauses: Pauses) -> None:
    ended: list[bool] = []
    answered = trio.Event()

    async def ask() -> None:
        with trio.move_on_after(2) as limit:
            await answered.wait()
        ended.append(limit.cancelled_caught)

    process = Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        process.nursery.start_soon(ask)
        await trio.sleep_until(1.25)
        pauses.pause(root)
        answered.set()
        await trio.sleep_until(4.5)
        pauses.resume(root)
        await trio.sleep_until(5.25)
        assert ended == [False]


async def test_two_processes_pause_and_resume_each_for_itself(pauses: Pauses) -> None:
    one, two = Process(), Process()
    async with running(pauses) as nursery:
        roots = [await nursery.start(process.run) for process in (one, two)]
        await trio.sleep_until(0.25)
        for root in roots:
            pauses.pause(root)
        await trio.sleep_until(2.5)
        pauses.resume(roots[0])
        await trio.sleep_until(3.25)
        assert one.turns == [2.5]
        assert two.turns == []
        pauses.resume(roots[1])
        await trio.sleep_until(4.0)
        assert two.turns == [3.25]


@pytest.mark.parametrize("call", [Pauses.pause, Pauses.resume])
async def test_to_pause_or_resume_twice_is_as_once(
    pauses: Pauses, call: Callable[[Pauses, trio.lowlevel.Task], None]
) -> None:
    process = Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        await trio.sleep_until(0.25)
        pauses.pause(root)
        await trio.sleep_until(2.25)
        call(pauses, root)
        call(pauses, root)
        await trio.sleep_until(3.5)
        pauses.resume(root)
        await trio.sleep_until(4.0)
        assert len(process.turns) == (1 if call is Pauses.pause else 2)


async def test_a_process_that_is_cancelled_while_paused_ends_when_it_is_resumed(pauses: Pauses) -> None:
    process = Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        for _ in range(50):
            process.nursery.start_soon(trio.sleep_forever)
        await trio.sleep_until(1.25)
        pauses.pause(root)
        process.scope.cancel()
        await trio.sleep_until(2.5)
        assert len(process.nursery.child_tasks) == 51
        pauses.resume(root)
        await trio.sleep_until(3.25)
        assert len(nursery.child_tasks) == 0


async def test_a_pause_within_a_pause_outlives_it(pauses: Pauses) -> None:
    process, inner = Process(), Process()
    async with running(pauses) as nursery:
        root = await nursery.start(process.run)
        below = await process.nursery.start(inner.run)
        await trio.sleep_until(0.25)
        pauses.pause(below)
        pauses.pause(root)
        await trio.sleep_until(2.5)
        pauses.resume(below)
        await trio.sleep_until(3.25)
        assert inner.turns == process.turns == []
        pauses.pause(below)
        pauses.resume(root)
        await trio.sleep_until(4.0)
        assert inner.turns == []
        assert process.turns == [3.25]
        pauses.resume(below)
        await trio.sleep_until(4.75)
        assert inner.turns == [4.0]


async def test_nothing_is_held_and_nothing_listens_after_the_last_pause(pauses: Pauses) -> None:
    async with running(pauses) as nursery:
        processes = [Process() for _ in range(3)]
        roots = [await nursery.start(process.run) for process in processes]
        await trio.sleep_until(0.25)
        for root in roots:
            pauses.pause(root)
        await trio.sleep_until(2.5)
        pauses.resume_all()
        with pytest.raises(KeyError):
            trio.lowlevel.remove_instrument(pauses)
        assert pauses._held == {}
        await trio.sleep_until(3.25)
        assert all(process.turns for process in processes)
