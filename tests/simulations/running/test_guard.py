"""Runs that would not end: they do, and say why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import trio

from simulations.determinism import run_deterministically
from simulations.running.breakage import Breakage
from simulations.running.guard import SENTENCE, WATCHED_ROUNDS, Guard

ROUNDS = WATCHED_ROUNDS + 500


class Watched:
    """A run of one function under a guard with few rounds."""

    def __init__(self, rounds_max=ROUNDS):
        self.scope = trio.CancelScope()
        self.guard = Guard(self.scope.cancel, rounds_max)
        self.breakage = Breakage(self.guard)
        self.reached_s = 0.0

    def run(self, work):
        async def within():
            with self.scope:
                await work()
                self.reached_s = trio.current_time()

        with self.guard.interruptible(), self.breakage:
            run_deterministically(within, seed=1, clock=self.guard.clock)
        return self


async def hand_to_each_other():
    async def work():
        while True:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await trio.sleep(3.25)
        nursery.start_soon(work)
        nursery.start_soon(work)


async def wait_for_ever():
    await trio.sleep(1)
    await trio.Event().wait()


def test_who_works_without_ever_waiting_ends_the_run_and_is_named():
    watched = Watched().run(hand_to_each_other)
    (violation,) = watched.guard.violations
    assert (violation.invariant, violation.sentence, violation.at_s) == ("L7", SENTENCE, 3.25)
    assert "hand_to_each_other.<locals>.work" in violation.detail
    assert f"{2 * WATCHED_ROUNDS} times" in violation.detail
    assert not watched.guard.was_aborted
    assert not watched.breakage.violations


def test_when_everybody_waits_for_what_nobody_does_the_run_ends_too():
    watched = Watched().run(wait_for_ever)
    (violation,) = watched.guard.violations
    assert violation.at_s == 1.0
    assert "everybody waits" in violation.detail
    assert watched.reached_s == 0.0


def test_who_is_shielded_from_being_cancelled_ends_too():
    async def shielded():
        await trio.sleep(1)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    watched = Watched().run(shielded)
    assert [(violation.invariant, violation.at_s) for violation in watched.guard.violations] == [("L7", 1.0)]
    assert not watched.guard.was_aborted
    assert not watched.breakage.violations


def test_who_is_deaf_to_being_cancelled_is_aborted():
    ran = subprocess.run([sys.executable, "-c", DEAF], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "True ['L7']\n"


DEAF = """
import trio
from simulations.determinism import run_deterministically
from simulations.running.breakage import Breakage
from simulations.running.guard import Guard

async def deaf():
    while True:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            pass

guard = Guard(lambda: None, rounds_max=1500)
with Breakage(guard):
    run_deterministically(deaf, seed=1, clock=guard.clock)
print(guard.was_aborted, [violation.invariant for violation in guard.violations])
"""


def test_deep_work_that_ends_is_left_alone():
    async def deep():
        for _ in range(5):
            for _ in range(ROUNDS - 100):
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.001)

    watched = Watched().run(deep)
    assert watched.guard.violations == []
    assert watched.reached_s == pytest.approx(0.005)


def test_the_first_interrupt_ends_the_run_and_the_second_is_pythons():
    async def interrupted():
        await trio.sleep(2)
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        await trio.sleep(100)

    watched = Watched().run(interrupted)
    assert watched.guard.is_interrupted
    assert (watched.guard.violations, watched.reached_s) == ([], 0.0)
    assert watched.guard.at_s < 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_and_other_threads_are_left_alone():
    def handler(number, frame): ...

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Guard(lambda: None).interruptible():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    ran = []

    def elsewhere():
        with Guard(lambda: None).interruptible():
            ran.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert ran == [before]


def test_an_error_is_told_with_its_place_and_its_notes_for_every_one_of_a_group():
    async def fail():
        error = ValueError("no such thing")
        error.add_note("on n3")
        raise ExceptionGroup("two", [error, KeyError("k")])

    watched = Watched()

    async def after_a_while():
        await trio.sleep(4)
        await fail()

    watched.run(after_a_while)
    one, two = watched.breakage.violations
    assert (one.invariant, one.at_s) == ("harness", 4.0)
    assert one.detail.splitlines()[:2] == ["ValueError: no such thing", "on n3"]
    assert two.detail.startswith("KeyError: 'k'")


def test_an_error_names_our_own_sources_before_those_of_libraries():
    async def fail():
        run_deterministically(None, seed=1)

    (violation,) = Watched().run(fail).breakage.violations
    assert "simulations/determinism.py:" in violation.detail
    assert "site-packages" not in violation.detail


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_is_no_error_goes_through(kind):
    with pytest.raises(kind), Breakage(Guard(lambda: None)):
        raise kind
