"""One direction of one connection: what is posted on one side is carried out on the other, later and in order.

A wire never loses or reorders. What is lost on the way or sent into a cut arrives late, and everything behind it later still:
that is how TCP looks from above, where a hole in a stream can't be.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from simulations.network.lane import Lane

Hear = Callable[[bytes], None]
Action = Callable[[Any], None]

DATA: Final = "data"


class Wire:
    """`trace` hears of everything that arrives: when, from whom to whom, what, how much, and a checksum of the bytes."""

    __slots__ = ("_booked_ms", "_is_over", "_lane", "_last_ms", "_on_lost", "_queue", "_trace")

    def __init__(self, lane: Lane, trace: Hear | None) -> None:
        self._lane = lane
        self._trace = trace
        self._queue: deque[tuple[int, str, Action, Any]] = deque()
        self._last_ms = 0  # nothing arrives before it: what is in front, or the end of a cut
        self._booked_ms = -1
        self._is_over = False
        self._on_lost: Callable[[], None] | None = None
        lane.enter(self)

    def post(self, what: str, action: Action, argument: Any, size_bytes: int = 0) -> None:
        """Have `action` carried out at the target; the windows of the streams bound how much is under way."""
        if self._is_over:
            return
        at_ms = self._lane.arrival_ms(size_bytes)
        if at_ms < self._last_ms:
            at_ms = self._last_ms
        self._queue.append((at_ms, what, action, argument))
        self._book(at_ms)

    @property
    def due_ms(self) -> int:
        """When the last of what is under way arrives; 0: nothing is."""
        return self._queue[-1][0] if self._queue else 0

    def _book(self, at_ms: int) -> None:
        self._last_ms = at_ms
        if at_ms != self._booked_ms:
            self._booked_ms = at_ms
            self._lane.delivery.book(at_ms, self)

    def deliver(self, now_ms: int) -> None:
        """Called by the delivery, at every time for which something was posted."""
        if now_ms >= self._booked_ms:
            self._booked_ms = -1
        queue, lane = self._queue, self._lane
        while queue and queue[0][0] <= now_ms and lane.is_open:
            if self._on_lost is not None:
                self._queue.clear()
                self._on_lost()
                return
            _, what, action, argument = queue.popleft()
            if self._trace is not None:
                data = argument if what is DATA else b""
                checksum = zlib.crc32(data)
                self._trace(f"{now_ms} {lane.name} {what} {len(data)} {checksum:08x}".encode())
            action(argument)

    def resume(self, at_ms: int) -> None:
        """Called by the lane when it opens again."""
        if not self._queue:
            return
        at_ms = max(at_ms, self._queue[0][0])
        waited = tuple(self._queue)
        self._queue.clear()
        self._queue.extend((max(due_ms, at_ms), *rest) for due_ms, *rest in waited)
        self._booked_ms = -1
        self._book(at_ms)
        self._last_ms = self._queue[-1][0]

    def lose_target(self, on_lost: Callable[[], None]) -> None:
        """The target's machine went without a word. Whatever reaches it once it is up again only sets off `on_lost`."""
        self._on_lost = on_lost

    def drop(self) -> None:
        """What is under way arrives no more; more may be posted."""
        self._queue.clear()

    def close(self) -> None:
        """Nobody is left who would want to hear what it brings. Idempotent."""
        self._is_over = True
        self._queue.clear()
        self._lane.leave(self)
