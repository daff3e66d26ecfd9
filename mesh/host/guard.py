"""What keeps a fault in one place: handlers whose exceptions stop at their stream.

In py-libp2p an exception that leaves a stream handler ends the whole host, so everything that a peer's bytes may set off runs
in here. This is the one place besides HTTP's 500 that catches whatever comes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from protocols.errors import RemoteFault, Unavailable
from protocols.seams import Stream

log = logging.getLogger("weft.host")


class Guard:
    """Runs what peers set off. `faults` counts what went wrong, by the name of the error.

    `also_expected` are errors of the library underneath that are as ordinary as a peer that goes away.
    """

    def __init__(self, *also_expected: type[Exception]) -> None:
        self.faults: Counter[str] = Counter()
        self._expected: tuple[type[Exception], ...] = (RemoteFault, Unavailable, *also_expected)

    async def contain(self, what: str, action: Callable[[], Awaitable[None]]) -> bool:
        """Whether `action` returned; whatever else it raises is logged, counted and goes no further."""
        try:
            return await self._contain_expected(what, action)
        except Exception as error:
            self.faults[type(error).__name__] += 1
            log.exception("%s failed", what)
            return False

    async def _contain_expected(self, what: str, action: Callable[[], Awaitable[None]]) -> bool:
        finished = False
        try:
            await action()
            finished = True
        except* self._expected as group:
            for error in _leaves(group):
                self.faults[type(error).__name__] += 1
                log.info("%s ended: %s: %s", what, type(error).__name__, error)
        return finished

    async def serve(self, what: str, stream: Stream, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Hand a stream to its handler; close it when the handler returns, reset it when it fails or is cancelled."""
        finished = False
        try:
            finished = await self.contain(what, partial(handler, stream))
        finally:
            with trio.move_on_after(1, shield=True):
                await (stream.close() if finished else stream.reset())


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
