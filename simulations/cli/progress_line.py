"""One line on a terminal that is written over again and again; nothing where nobody looks."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TextIO

from simulations.running.run import Progress

REDRAW_S: Final = 0.2
"""Of real time, at least, between two drawings."""


class ProgressLine:
    """`with ProgressLine() as line:` leaves the terminal clean. `show` costs next to nothing while it is not due."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._began_s = clock()
        self._due_s = self._began_s + REDRAW_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def show(self, progress: Progress) -> None:
        """How far a run is."""
        if self._is_due():
            ran_s = max(self._clock() - self._began_s, 1e-9)
            violations = f", {progress.violations} violations" if progress.violations else ""
            self.write(
                f"{progress.at_s:.1f} of {progress.until_s:.0f} virtual s, {progress.at_s / ran_s:.0f} x real time, "
                f"{progress.events:,} events, {progress.sessions} sessions{violations}"
            )

    def write(self, line: str) -> None:
        """At once, in place of what stands there."""
        if self._is_terminal:
            cells = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:cells]}")
            self._stream.flush()

    def _is_due(self) -> bool:
        if not self._is_terminal or self._clock() < self._due_s:
            return False
        self._due_s = self._clock() + REDRAW_S
        return True
