"""Sweeps over many machines through Dask: `pip install 'weft[cluster]'`, then on each machine, with the same weft:

    dask scheduler                                   # on one of them
    dask worker tcp://HOST:8786 --nthreads 1 --nworkers 8

One thread per worker process, since the scheduler that a run seeds is the process's own. A worker that dies costs its task
another try on another worker, by Dask's own count.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from protocols.errors import UserError
from simulations.running.engines import LIMIT_S, Done, Ended, Failed, told
from simulations.running.failure import package_digest
from simulations.running.outcome import Outcome
from simulations.running.task import Task

CONNECT_S: Final = 10.0


class DaskEngine:
    """Raises `UserError` if Dask is missing, the scheduler does not answer, or its workers would give other results."""

    def __init__(self, scheduler: str, work: Callable[[Task], Outcome], limit_s: float = LIMIT_S) -> None:
        try:
            import distributed
        except ImportError as error:
            raise UserError(
                "--engine dask needs Dask: \"pip install 'weft[cluster]'\", here and on the workers."
            ) from error
        self._dask: Any = distributed
        self._limit_s = limit_s
        self._work = work
        self._waiting: deque[Task] = deque()
        self._running: dict[Any, tuple[Task, float]] = {}
        try:
            self._client: Any = distributed.Client(scheduler, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {scheduler}: start one with 'dask scheduler'."
            ) from error
        try:
            self._jobs = self._fit_workers(scheduler)
        except UserError:
            self._client.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.clear()
        self._client.cancel(list(self._running))
        self._client.close()

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting.extend(tasks)
        self._fill()

    def ended(self, within_s: float) -> list[Ended]:
        self._fill()
        if not self._running:
            return []
        with contextlib.suppress(TimeoutError):
            self._dask.wait(list(self._running), timeout=within_s, return_when="FIRST_COMPLETED")
        found = [ended for future in list(self._running) if (ended := self._look(future)) is not None]
        self._fill()
        return found

    def _fill(self) -> None:
        # No more than there are workers, so that the limit counts from when a task begins.
        while self._waiting and len(self._running) < self._jobs:
            task = self._waiting.popleft()
            future = self._client.submit(_carry_out_alike, self._work, task, package_digest(), pure=False)
            self._running[future] = (task, time.monotonic())

    def _look(self, future: Any) -> Ended | None:
        task, since_s = self._running[future]
        if not future.done():
            if time.monotonic() - since_s < self._limit_s:
                return None
            future.cancel()
            ended: Ended = Failed(
                task.number,
                f"it took longer than {self._limit_s:g} s of wall-clock time and was let go; restart its worker",
            )
        elif future.status == "finished":
            ended = Done(task.number, future.result())
        else:
            ended = Failed(task.number, self._why(future))
        del self._running[future]
        return ended

    def _why(self, future: Any) -> str:
        if future.status != "error":
            return f"Dask gave it up ({future.status})"
        error = future.exception()
        killed = isinstance(error, self._dask.KilledWorker)
        return "its workers died (out of memory?)" if killed else told(error)

    def _fit_workers(self, scheduler: str) -> int:
        threads: dict[str, int] = self._client.nthreads()
        if not threads:
            raise UserError(
                f"{scheduler} has no workers: start some with 'dask worker {scheduler} --nthreads 1'."
            )
        if any(count != 1 for count in threads.values()):
            raise UserError(
                "a Dask worker has several threads, and runs would disturb each other: use --nthreads 1."
            )
        try:
            digests: dict[str, str] = self._client.run(package_digest)
        except ImportError as error:
            raise UserError("a Dask worker has no weft: install this release there as well.") from error
        other = sorted(worker for worker, digest in digests.items() if digest != package_digest())
        if other:
            raise UserError(f"{other[0]} runs other code than this machine: install the same weft there.")
        return len(threads)


def _carry_out_alike(work: Callable[[Task], Outcome], task: Task, digest: str) -> Outcome:
    """On the worker: one that joined later may have other code."""
    if package_digest() != digest:
        raise UserError("a worker runs other code: install the same weft there")
    return work(task)
