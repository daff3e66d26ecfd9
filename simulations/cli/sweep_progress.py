"""How a sweep goes, on stderr: a line that is redrawn on a terminal, one every ten seconds otherwise."""

from __future__ import annotations

import shutil
import time
from types import TracebackType
from typing import Final, Self, TextIO

from simulations.running.sweep import Progress, progress_text

EVERY_S: Final = 10.0


class SweepProgress:
    """Leaving the context ends the line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._last: Progress | None = None
        self._told_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last is not None:
            self._write(self._last)
            self._stream.write("\n" if self._is_terminal else "")
            self._stream.flush()

    def show(self, progress: Progress) -> None:
        self._last = progress
        if self._is_terminal or time.monotonic() - self._told_s >= EVERY_S:
            self._write(progress)

    def _write(self, progress: Progress) -> None:
        self._told_s = time.monotonic()
        line = progress_text(progress)
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
