"""A nursery for one peer's tasks: what a peer or the weather does ends them with that one error, not with a group.

Anything that is not a `WeftError` is a bug and crosses as trio delivers it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from protocols.errors import WeftError


@asynccontextmanager
async def peer_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that raises the first `WeftError` of its tasks plainly."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        faults, others = group.split(WeftError)
        if faults is None:
            raise
        if others is None:
            raise _first(faults) from None
        if others.split(trio.Cancelled)[1] is not None:
            raise
        # Cancelled from outside in the same moment: nobody is left who waits to hear of the fault.
        raise others from None


def _first(group: BaseExceptionGroup[WeftError]) -> WeftError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
