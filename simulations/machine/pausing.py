"""SIGSTOP for one of many daemons in one process: none of its tasks gets a turn until it is resumed.

trio tells an instrument of every task that becomes ready, right after it was put at the end of the queue of those that run
next. Tasks below a paused one are taken off it again and kept; everything else goes on, so timers run out, scopes are
cancelled and events are set meanwhile. On resuming, all that came due is ready at once, as after a real SIGCONT.

trio's queue is a private name. The instrument is there only while something is paused, since hearing of every task costs.
"""

from __future__ import annotations

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.lowlevel import Task


class Pauses(trio.abc.Instrument):
    """Who is paused in one run of trio.

    Before the run ends everything must have been resumed, since a cancelled task needs turns to end: `resume_all`.
    """

    def __init__(self) -> None:
        self._held: dict[Task, list[Task]] = {}

    def pause(self, root: Task) -> None:
        """Nothing below `root`, and not `root` itself, runs from the next turn of the scheduler on. Twice is as once.

        Tasks that are about to run in the turn in which this is called still do.
        """
        if root in self._held:
            return
        if not self._held:
            trio.lowlevel.add_instrument(self)
        self._held[root] = []
        ready = GLOBAL_RUN_CONTEXT.runner.runq
        for _ in range(len(ready)):
            task = ready.popleft()
            ready.append(task)
            self.task_scheduled(task)

    def resume(self, root: Task) -> None:
        """What came due runs now, in the order in which it did; nothing happens if `root` is not paused."""
        if root not in self._held:
            return
        for task in self._held.pop(root):
            GLOBAL_RUN_CONTEXT.runner.runq.append(task)
            self.task_scheduled(task)  # something above or below may be paused still
        if not self._held:
            trio.lowlevel.remove_instrument(self)

    def resume_all(self) -> None:
        for root in tuple(self._held):
            self.resume(root)

    def task_scheduled(self, task: Task) -> None:
        """Called by trio when `task` has become the last of the queue."""
        root = self._paused_above(task)
        if root is not None:
            GLOBAL_RUN_CONTEXT.runner.runq.pop()
            self._held[root].append(task)

    def _paused_above(self, task: Task | None) -> Task | None:
        while task is not None and task not in self._held:
            task = task.parent_nursery.parent_task if task.parent_nursery else None
        return task
