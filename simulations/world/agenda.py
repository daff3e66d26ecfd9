"""Virtual time: what is to happen and when, in whole milliseconds, in the order in which it was asked for.

With a thousand nodes hundreds of things happen in one millisecond, so the heap holds milliseconds and not things.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., None], tuple[Any, ...]]


class Agenda:
    """`now_ms` is the time of whatever is happening."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.events = 0
        self._due: dict[int, list[Call]] = {}
        self._times: list[int] = []

    @property
    def now_s(self) -> float:
        return self.now_ms / 1000

    def at(self, when_ms: int, what: Callable[..., None], *args: Any) -> None:
        """What has passed happens now."""
        when_ms = max(when_ms, self.now_ms)
        calls = self._due.get(when_ms)
        if calls is None:
            self._due[when_ms] = [(what, args)]
            heapq.heappush(self._times, when_ms)
        else:
            calls.append((what, args))

    def run(self, until_ms: int) -> None:
        """All that is due by then, that moment included."""
        times = self._times
        while times and times[0] <= until_ms:
            self.now_ms = times[0]
            calls = self._due[self.now_ms]
            for what, args in calls:  # grows while it is gone through, when something is due at once
                what(*args)
            self.events += len(calls)
            del self._due[heapq.heappop(times)]
        self.now_ms = until_ms
