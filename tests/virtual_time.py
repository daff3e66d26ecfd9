"""Tests on virtual time without naming a clock: `pytestmark = ON_VIRTUAL_TIME`.

pytest-trio takes a clock only from a test's own arguments, which tests that also run on real networks can't have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing


def run_on_virtual_time(
    test: Callable[[], Awaitable[Any]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Any:
    """`trio.run` on a clock that jumps to the next deadline whenever every task waits."""
    return trio.run(
        test, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments
    )


ON_VIRTUAL_TIME = pytest.mark.trio(run=run_on_virtual_time)
