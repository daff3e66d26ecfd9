"""What carries out many tasks. The default: one process per core of this machine, from the standard library.

A process that dies (the kernel takes the greediest one when memory runs out) costs its task one more try. A task that takes
too long is ended with its process. Both are told as `Failed`; nothing waits for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from simulations.running.outcome import Outcome
from simulations.running.task import Task

_SPAWN: Final = multiprocessing.get_context("spawn")
TRIES: Final = 2
LIMIT_S: Final = 1800.0
"""Of wall-clock time for one task: ten times what the longest of the nightly runs takes."""


@dataclass(frozen=True, slots=True)
class Done:
    number: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """No outcome, and why."""

    number: int
    why: str


Ended = Done | Failed


class Engine(Protocol):
    """Takes tasks, gives what became of them as they end. Leaving the context ends what is under way."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def submit(self, tasks: Sequence[Task]) -> None: ...

    def ended(self, within_s: float) -> list[Ended]:
        """What has ended since the last call, after waiting for at most `within_s`. Every task ends once."""
        ...


class LocalEngine:
    """`jobs` processes. `work` must be importable by its name in a new process."""

    def __init__(self, jobs: int, work: Callable[[Task], Outcome], limit_s: float = LIMIT_S) -> None:
        # Processes that are killed do not clear up: what they keep on disk is the engine's to remove.
        self._folder = tempfile.TemporaryDirectory(prefix="weft-sweep-", ignore_cleanup_errors=True)
        self._slots = [_Slot(self._folder.name) for _ in range(jobs)]
        self._limit_s = limit_s
        self._work = work
        self._waiting: deque[tuple[Task, int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.clear()
        for slot in self._slots:
            slot.end()
        self._folder.cleanup()

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend((task, 1) for task in tasks)
        self._fill()

    def ended(self, within_s: float) -> list[Ended]:
        until_s = time.monotonic() + within_s
        found: list[Ended] = []
        while not found:
            self._fill()
            running = [slot for slot in self._slots if slot.future is not None]
            wakes_s = min([until_s, *(slot.since_s + self._limit_s for slot in running)])
            wait(
                [slot.future for slot in running if slot.future is not None],
                max(wakes_s - time.monotonic(), 0.0),
                FIRST_COMPLETED,
            )
            found = [ended for slot in running if (ended := self._look(slot)) is not None]
            if time.monotonic() >= until_s or not running:
                break
        return found

    def _fill(self) -> None:
        for slot in self._slots:
            if slot.future is None and self._waiting:
                slot.begin(self._work, *self._waiting.popleft())

    def _look(self, slot: _Slot) -> Ended | None:
        future, task, tries = slot.future, slot.task, slot.tries
        assert future is not None
        assert task is not None
        if not future.done():
            if time.monotonic() - slot.since_s < self._limit_s:
                return None
            slot.end()
            return Failed(
                task.number, f"it took longer than {self._limit_s:g} s of wall-clock time and was ended"
            )
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            slot.end()
            if tries < TRIES:
                self._waiting.appendleft((task, tries + 1))
                return None
            return Failed(task.number, f"its process died {TRIES} times (out of memory?)")
        slot.future = None
        return Done(task.number, future.result()) if error is None else Failed(task.number, told(error))


class _Slot:
    """One process, started when it is first needed, and what it does: one task at a time, so that a death is that task's."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.future: Future[Outcome] | None = None
        self.task: Task | None = None
        self.tries = 0
        self.since_s = 0.0
        self._pool: ProcessPoolExecutor | None = None
        self._process = 0

    def begin(self, work: Callable[[Task], Outcome], task: Task, tries: int) -> None:
        self.task, self.tries, self.since_s = task, tries, time.monotonic()
        try:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(1, _SPAWN, _settle_in, (self._folder,))
                self._process = self._pool.submit(os.getpid).result()
            self.since_s = time.monotonic()  # that a process starts slowly is not the task's fault
            self.future = self._pool.submit(work, task)
        except BrokenProcessPool as error:  # it died between two tasks, or had not even begun
            self.future = Future()
            self.future.set_exception(error)

    def end(self) -> None:
        """The process is killed: what it computes can't be asked to stop."""
        if self._pool is not None:
            if self._process:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._process, signal.SIGKILL)
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._process = 0
        self._pool = self.future = self.task = None


def _settle_in(folder: str) -> None:
    """In a new process: temporary files go to `folder`, an interrupt is its parent's to answer, and without a parent it has nobody to work for."""
    tempfile.tempdir = folder
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    _clear(Path(tempfile.gettempdir()))
    os._exit(1)


def _clear(folder: Path) -> None:
    """What a parent that was killed has left behind, by the first of its processes to notice."""
    # Under another name, because the tasks go on with their files until the very end.
    with contextlib.suppress(OSError):
        shutil.rmtree(folder.rename(f"{folder}.ended"), ignore_errors=True)


def told(error: BaseException) -> str:
    """An error of another process in one line; of a group, its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"it raised {type(error).__name__}: {error}".split())[:500]
