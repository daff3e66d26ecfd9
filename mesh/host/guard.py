"""What keeps a fault in one place: handlers whose exceptions stop at their stream, and libp2p's logs at the door.

In py-libp2p an exception that leaves a stream handler ends the whole host, so everything that a peer's bytes may set off runs
in here. This is the one place besides HTTP's 500 that catches whatever comes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.connection import swarm_connection

from protocols.errors import RemoteFault, Unavailable
from protocols.seams import Stream

log = logging.getLogger("weft.host")


class Guard:
    """Runs what peers set off. `faults` counts what went wrong, by the name of the error."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()

    async def contain(self, what: str, action: Callable[[], Awaitable[None]]) -> bool:
        """Whether `action` returned; whatever else it raises is logged, counted and goes no further."""
        try:
            return await self._contain_expected(what, action)
        except Exception as error:  # noqa: BLE001  (one peer's stream must not end the node)
            self.faults[type(error).__name__] += 1
            log.exception("%s failed", what)
            return False

    async def _contain_expected(self, what: str, action: Callable[[], Awaitable[None]]) -> bool:
        finished = False
        try:
            await action()
            finished = True
        except* (RemoteFault, Unavailable, BaseLibp2pError) as group:
            for error in _leaves(group):
                self.faults[type(error).__name__] += 1
                log.info("%s ended: %s: %s", what, type(error).__name__, error)
        return finished

    async def serve(self, what: str, stream: Stream, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Hand a stream to its handler; close it when the handler returns, reset it when it fails or is cancelled."""
        finished = False

        async def handle() -> None:
            await handler(stream)

        try:
            finished = await self.contain(what, handle)
        finally:
            with trio.move_on_after(1, shield=True):
                await (stream.close() if finished else stream.reset())


def _leaves(group: BaseExceptionGroup[Exception]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def silence_libp2p() -> None:
    """Nothing of libp2p reaches the log: what matters is raised to us. Idempotent.

    One of its modules logs through the `logging` module itself, whose functions install a handler that writes to stderr
    when the root logger has none; it gets libp2p's own logger in its place.
    """
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    vars(swarm_connection)["logging"] = logger
