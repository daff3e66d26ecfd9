"""One life of a daemon: from its start, over its orderly end or its failure, to the last of its tasks.

    starting --up--> up --stop()--> draining --> gone
        |            |                 |
        +------------+-----------------+--> gone: it failed, or whoever ran it was cancelled

As `node.main` does it: what clients ask runs inside the process and ends before the node does, and a stop drains first.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import trio

from node.daemon import Daemon
from protocols import limits
from protocols.errors import LocalFault, UserError
from simulations.machine.disk import MemoryDisk
from simulations.machine.pausing import Pauses
from simulations.machine.worker import VirtualWorker
from simulations.network.network import VirtualNetwork


class Phase(Enum):
    STARTING = "starting"
    UP = "up"
    DRAINING = "draining"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Panic:
    """A daemon ended by an exception that it should have dealt with: a bug. `traceback` is for people."""

    at_s: float
    node: str
    error: str
    traceback: str


@dataclass(slots=True)
class Body:
    """What a process is made of."""

    daemon: Daemon
    network: VirtualNetwork


Make = Callable[["Process"], Awaitable[Body]]


class Process:
    """`worker`, `disk` and `clock` are its own: what it does after it was killed reaches no other process.

    `up` is set once clients may ask, `gone` as soon as nobody hears of it any more; tasks that end slowly may outlive that.
    """

    def __init__(self, make: Make, disk: MemoryDisk, worker: VirtualWorker, pauses: Pauses) -> None:
        self.disk = disk
        self.worker = worker
        self.phase = Phase.STARTING
        self.up = trio.Event()
        self.gone = trio.Event()
        self.body: Body | None = None
        self.failure: BaseExceptionGroup[Exception] | None = None
        self.root_task: trio.lowlevel.Task | None = None
        self._make = make
        self._pauses = pauses
        self._holds = 0
        self._stopping = trio.Event()
        self._serving: trio.Nursery | None = None

    # Life ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it ends by itself, which `failure` explains unless it was stopped, or is cancelled, as by a kill."""
        self.root_task = trio.lowlevel.current_task()
        try:
            await self._live()
        except* Exception as group:  # noqa: BLE001  (a failure of one simulated process is what is looked for)
            self.failure = group
        finally:
            self.end()

    async def _live(self) -> None:
        self.body = body = await self._make(self)
        async with body.daemon.run(), trio.open_nursery() as serving:
            self._serving = serving
            if self.phase is Phase.STARTING:
                self.phase = Phase.UP
            self.up.set()
            try:
                await self._stopping.wait()
                with trio.move_on_after(limits.DRAIN_S):
                    await body.daemon.drain()
            finally:
                self._serving = None  # before it closes: the goodbyes take longer
            serving.cancel_scope.cancel()

    def stop(self) -> None:
        """SIGTERM: drain, tell the others, end."""
        if self.phase is not Phase.GONE:
            self.phase = Phase.DRAINING
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end; so it stays after it has ended."""
        return self._stopping.is_set()

    def end(self) -> None:
        """From now on it is nobody's process; idempotent."""
        self.phase, self._serving = Phase.GONE, None
        while self._holds:
            self.resume()
        self.gone.set()

    # What clients do -------------------------------------------------------------------------------------------------

    def ask(self, ask: Callable[[Daemon], Awaitable[None]]) -> bool:
        """Run `ask` inside, as a request of HTTP; whether it is up to take it."""
        if self._serving is None or self.body is None:
            return False
        self._serving.start_soon(ask, self.body.daemon)
        return True

    async def asked(self, ask: Callable[[Daemon], Awaitable[None]]) -> bool:
        """The same, and wait for it; whether it ran to its end."""
        over = trio.Event()
        is_whole = False

        async def run(daemon: Daemon) -> None:
            nonlocal is_whole
            try:
                await ask(daemon)
                is_whole = True
            finally:
                over.set()

        if not self.ask(run):
            return False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gone_too, over)
            await over.wait()
            nursery.cancel_scope.cancel()
        return is_whole and self.phase is not Phase.GONE

    async def _gone_too(self, over: trio.Event) -> None:
        await self.gone.wait()
        over.set()

    # Pauses ----------------------------------------------------------------------------------------------------------

    @property
    def holds(self) -> int:
        """How many pauses have not been resumed."""
        return self._holds

    def pause(self) -> None:
        """SIGSTOP. Pauses add up: as many `resume` are due. The worker is another process and goes on."""
        if self.phase is not Phase.GONE and self.root_task is not None:
            self._holds += 1
            self._pauses.pause(self.root_task)

    def resume(self) -> None:
        """SIGCONT; nothing happens if it is not paused."""
        if self._holds:
            self._holds -= 1
        if not self._holds and self.root_task is not None:
            self._pauses.resume(self.root_task)

    # Why it ended ----------------------------------------------------------------------------------------------------

    def refusal(self) -> str | None:
        """Why it ended, if that is no bug: it could not start, or its disk failed it."""
        if self.failure is None:
            return None
        expected: tuple[type[Exception], ...] = () if self.up.is_set() else (UserError,)
        if self.disk.is_full or self.disk.was_damaged:
            expected = (*expected, LocalFault)
        if not expected or self.failure.split(expected)[1] is not None:
            return None
        return str(_first(self.failure))

    def panic(self, node: str) -> Panic:
        """Why it ended, if it is one."""
        assert self.failure is not None
        first = _first(self.failure)
        error = f"{type(first).__name__}{_place(first)}"
        return Panic(trio.current_time(), node, error, "".join(traceback.format_exception(self.failure)))


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _place(error: BaseException) -> str:
    """Where it was raised, without what differs from machine to machine."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
