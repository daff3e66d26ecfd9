"""Shared test code shows its values when an assertion fails, as the tests themselves do."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

pytest.register_assert_rewrite("tests.contracts")


@pytest.fixture
def autojump_clock() -> MockClock:
    """Virtual time that jumps at once: nothing under it waits for a real socket or thread."""
    return MockClock(autojump_threshold=0)
