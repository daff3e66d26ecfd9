"""Errors leave the nursery of a peer plainly, and never past the scope that was cancelled."""

from __future__ import annotations

import pytest
import trio

from mesh.nursery import peer_nursery
from protocols.errors import Disconnected


async def fail() -> None:
    raise Disconnected("gone")


async def test_a_fault_of_a_task_is_raised_without_a_group() -> None:
    with pytest.raises(Disconnected):
        async with peer_nursery() as nursery, peer_nursery() as inner:
            inner.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)


async def test_a_bug_beside_a_fault_is_not_hidden() -> None:
    async def stumble() -> None:
        raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        async with peer_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(stumble)
    assert caught.group_contains(ZeroDivisionError)


async def test_a_fault_in_the_moment_of_being_cancelled_ends_with_the_cancelled_scope() -> None:
    with trio.CancelScope() as outer:
        async with peer_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
            outer.cancel()
    assert outer.cancelled_caught
