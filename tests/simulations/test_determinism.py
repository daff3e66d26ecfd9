"""Runs that can be repeated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import trio
from trio._core import _run as scheduler

from protocols.errors import LocalFault
from simulations import determinism
from simulations.determinism import TickingClock, run_deterministically

SEEDS = range(5)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As in a process in which nothing has run yet."""
    determinism._check_scheduler.cache_clear()
    yield
    determinism._check_scheduler.cache_clear()


async def turns_of(tasks: int) -> list[int]:
    """The order in which tasks get their turns that nothing but the scheduler orders."""
    seen: list[int] = []

    async def work(number: int) -> None:
        for _ in range(3):
            await trio.sleep(0.001)
            seen.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(work, number)
    return seen


def test_one_seed_gives_one_order_and_another_seed_another() -> None:
    orders = [tuple(run_deterministically(turns_of, 6, seed=seed)) for seed in SEEDS]
    assert orders == [tuple(run_deterministically(turns_of, 6, seed=seed)) for seed in SEEDS]
    assert len(set(orders)) == len(SEEDS)


def test_the_order_is_the_same_in_a_process_where_strings_hash_otherwise() -> None:
    code = (
        "from simulations.determinism import TickingClock, _interleave, _run\n"
        "print([_run(_interleave, seed, TickingClock()) for seed in range(3)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    }
    here = [determinism._run(determinism._interleave, seed, TickingClock()) for seed in range(3)]
    assert printed == {f"{here}\n".encode()}


def test_trio_is_afterwards_as_it_was_also_when_the_run_fails() -> None:
    async def fail() -> None:
        raise LookupError("nothing")

    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    run_deterministically(turns_of, 3, seed=1)
    with pytest.raises(LookupError):
        run_deterministically(fail, seed=1)
    assert before == (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate())


def test_what_is_booked_is_called_in_order_of_time_behind_the_deadlines_of_that_time() -> None:
    async def book() -> list[str]:
        clock, seen = trio.lowlevel.current_clock(), list[str]()
        assert isinstance(clock, determinism.TickingClock)
        late = trio.Event()

        async def sleep() -> None:
            with trio.CancelScope(deadline=0.002) as scope:
                await late.wait()
            seen.append(f"slept {scope.cancelled_caught}")

        def again(tick: int) -> None:
            seen.append(f"two {tick}")
            late.set()
            clock.call_at(1, lambda tick: seen.append(f"overdue {tick}"))

        clock.call_at(5, lambda tick: seen.append(f"three {tick} {trio.current_time()}"))
        clock.call_at(2, lambda tick: seen.append(f"one {tick}"))
        clock.call_at(2, again)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
        await trio.sleep_until(0.006)
        return seen

    assert run_deterministically(book, seed=1) == [
        "one 2",
        "two 2",
        "overdue 2",
        "slept True",
        "three 5 0.005",
    ]


def test_a_thread_is_heard_although_the_kernel_is_seldom_asked() -> None:
    assert run_deterministically(trio.to_thread.run_sync, lambda: 3, seed=1) == 3


async def times_of(*sleeps_s: float) -> list[float]:
    times = []
    for seconds in sleeps_s:
        await trio.sleep(seconds)
        times.append(trio.current_time())
    return times


def test_time_moves_in_whole_milliseconds_upwards() -> None:
    assert run_deterministically(times_of, 0.0001, 0.0021, 1.0, 0.99901, seed=1) == pytest.approx(
        [0.001, 0.004, 1.004, 2.004], abs=1e-9
    )


def test_sums_of_floats_cost_no_millisecond() -> None:
    times = run_deterministically(times_of, *[0.001] * 5000, *[0.0007] * 100, seed=1)
    assert times == pytest.approx([0.001 * count for count in range(1, 5101)], abs=1e-9)


def test_nobody_wakes_before_the_time_that_it_waited_for() -> None:
    async def wait() -> list[float]:
        early = []
        for count in range(1, 3000):
            due = trio.current_time() + 0.001 * (1 + count % 7)
            await trio.sleep_until(due)
            early.append(max(0.0, due - trio.current_time()))
        return early

    assert set(run_deterministically(wait, seed=1)) == {0.0}


def test_deadlines_within_one_millisecond_come_in_one_turn() -> None:
    """However many there are, the clock jumps once."""

    async def wait_until(due: float, times: list[float]) -> None:
        await trio.sleep_until(due)
        times.append(trio.current_time())

    async def meet() -> list[float]:
        times: list[float] = []
        async with trio.open_nursery() as nursery:
            for due in (0.0501, 0.0509, 0.051, 0.03 + 0.021, 0.0502):
                nursery.start_soon(wait_until, due, times)
        return times

    assert len(set(run_deterministically(meet, seed=1))) == 1


def test_a_sleep_and_the_end_of_a_scope_at_one_time_come_in_one_turn() -> None:
    async def leave(times: list[float]) -> None:
        with trio.move_on_at(0.0505):
            await trio.sleep_forever()
        times.append(trio.current_time())

    async def meet() -> list[float]:
        times: list[float] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, times)
            await trio.sleep_until(0.051)
            times.append(trio.current_time())
        return times

    assert run_deterministically(meet, seed=1) == [0.051, 0.051]


def test_sleeps_that_are_left_early_move_no_clock_and_are_forgotten() -> None:
    async def leave() -> None:
        for _ in range(3):
            with trio.move_on_after(1):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, 100)
                    nursery.start_soon(trio.sleep, 100)
                    nursery.start_soon(trio.sleep_until, 1)  # cancelled while its own time comes
        await trio.lowlevel.checkpoint()

    clock = TickingClock()
    run_deterministically(leave, seed=1, clock=clock)
    assert clock.current_time() == 3
    assert trio.sleep.__module__.startswith("trio")


def test_a_sleep_that_is_over_is_a_turn_for_others_and_no_time_can_be_slept_backwards() -> None:
    async def sleep() -> float:
        await trio.sleep(0)
        await trio.sleep_until(-1)
        with pytest.raises(ValueError, match="non-negative"):
            await trio.sleep(-1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep(5)
        return trio.current_time()

    assert run_deterministically(sleep, seed=1) == 0


def test_a_day_without_deadlines_takes_no_time_and_events_still_come() -> None:
    async def live() -> float:
        with trio.move_on_after(86_400):
            await trio.sleep_forever()
        return trio.current_time()

    assert run_deterministically(live, seed=1) == 86_400


@pytest.mark.usefixtures("unchecked")
def test_a_trio_that_shuffles_as_it_likes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "_set_scheduler", lambda **_: None)
    monkeypatch.setattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", False)
    with pytest.raises(LocalFault, match=rf"trio {trio.__version__} does not repeat a run"):
        run_deterministically(turns_of, 3, seed=1)


@pytest.mark.usefixtures("unchecked")
def test_a_trio_without_the_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING")
    with pytest.raises(LocalFault, match=rf"trio {trio.__version__} has no scheduler to seed"):
        run_deterministically(turns_of, 3, seed=1)
