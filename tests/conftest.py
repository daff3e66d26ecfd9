"""Shared test code shows its values when an assertion fails, as the tests themselves do; virtual time wins; and the order
of trio's tasks is drawn from a seed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from simulations.determinism import seeded_scheduler
from tests.virtual_time import ON_VIRTUAL_TIME, run_on_virtual_time

pytest.register_assert_rewrite("tests.contracts")

# A loaded machine is slow and not wrong, and every run draws the same examples.
settings.register_profile(
    "weft", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("weft")

SEED = int(os.environ.get("WEFT_TEST_SEED", "0"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A module's `ON_VIRTUAL_TIME` counts: pytest-trio's automatic mode marks each test with a runner of its own, nearer to
    the test and so before it."""
    for item in items:
        for marker in item.iter_markers("trio"):
            if marker.kwargs.get("run") is run_on_virtual_time:
                item.add_marker(ON_VIRTUAL_TIME, append=False)
                break


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Iterator[None]:
    """A test that hangs on the order of trio's tasks fails always or never; `make test-orders` looks for those that do."""
    with seeded_scheduler(SEED):
        return (yield)


@pytest.fixture
def autojump_clock() -> MockClock:
    """Virtual time that jumps at once: nothing under it waits for a real socket or thread."""
    return MockClock(autojump_threshold=0)
