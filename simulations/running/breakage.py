"""An error that leaves a run, told as a violation: it has a seed, and can be seen again.

Daemons that die of one are told by the observer; what comes here is a bug of the harness, or of what it calls in a node.

Not an `except`, which would have to name what nobody expected: a context that sees whatever leaves it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from simulations.running.failure import PACKAGES
from simulations.running.guard import Guard
from simulations.running.outcome import Violation

FRAMES: Final = 6
"""How many of the innermost frames of an error are told, of our own sources if it passed through any."""

_PACKAGES: Final = tuple(f"{package}/" for package in PACKAGES)
_ROOT: Final = Path(__file__).resolve().parents[2]


class Breakage:
    """`with breakage:` around a run keeps every `Exception` that leaves it; `guard` knows the virtual time of its end."""

    def __init__(self, guard: Guard) -> None:
        self.violations: list[Violation] = []
        self._guard = guard

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._guard.was_aborted:
            return True
        if not isinstance(error, Exception):
            return False
        self.violations += [
            Violation(
                "harness", "A run ends without an error of its own.", self._guard.at_s, (), _detail(leaf)
            )
            for leaf in _leaves(error)
        ]
        return True


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _detail(error: BaseException) -> str:
    """What it is, where it comes from, and what was noted on it on its way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _place(frame.filename).startswith(_PACKAGES)]
    told = (own or frames)[-FRAMES:]
    lines = (f"{_place(frame.filename)}:{frame.lineno} in {frame.name}: {frame.line}" for frame in told)
    return "\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()), *lines))


def _place(filename: str) -> str:
    path = Path(filename)
    return path.relative_to(_ROOT).as_posix() if path.is_relative_to(_ROOT) else path.name
