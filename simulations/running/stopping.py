"""Being asked to stop without being torn apart: an interrupt is noted, and whoever works looks for it.

One wish to stop may come twice at once, as when a terminal tells `make` and all it runs, and `make` then tells what it runs.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ONE_WISH_S: Final = 1.0


@contextmanager
def noted_interrupts(clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[], bool]]:
    """Gives what tells whether SIGINT or SIGTERM has come. Another, later one interrupts at once, as ever."""
    came_s: float | None = None

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came_s
        if came_s is None:
            came_s = clock()
        elif clock() - came_s >= ONE_WISH_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came_s is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
