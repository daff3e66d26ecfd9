"""What was held and has to be loaded again: after the worker died, or the node was restarted.

One range after the other. One that can't be loaded now waits behind the rest; one that kills the worker, or whose weights are
wrong, is given up after `RELOADS_MAX` times.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog
import trio

from inference.placement.holding.grants import Grant
from protocols import limits
from protocols.errors import LocalFault, RemoteFault, Unavailable, UserError, WeftError, WorkerDied
from protocols.ids import shortened

log = structlog.get_logger()

RELOAD_WAIT_S: Final = 1.0  # after a failure, before the next range is tried


class Reloading:
    """`load` raises if it fails, and returns if the grant is gone; `give_up` forgets a grant for good."""

    def __init__(self, load: Callable[[Grant], Awaitable[None]], give_up: Callable[[Grant], None]) -> None:
        self._load = load
        self._give_up = give_up
        self._waiting: deque[Grant] = deque()
        self._failures: Counter[Grant] = Counter()
        self._wake = trio.Event()
        self._deaths = 0

    def add(self, grants: Iterable[Grant]) -> None:
        self._waiting += grants
        self._wake.set()

    def worker_died(self, lost: Iterable[Grant]) -> None:
        self._deaths += 1
        self.add(lost)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while self._waiting:
                await self._try(self._waiting.popleft())
            self._wake = trio.Event()
            await self._wake.wait()

    async def _try(self, grant: Grant) -> None:
        """Once; after a failure wait and put it last, or give it up if it is what kills the worker."""
        deaths = self._deaths
        try:
            await self._load(grant)
            self._failures.pop(grant, None)
        except WorkerDied as error:
            await trio.sleep(RELOAD_WAIT_S)  # by then its death is known, if it was not down before
            self._failed(grant, error, is_to_blame=self._deaths > deaths)
        except Unavailable as error:
            self._failed(grant, error, is_to_blame=False)  # peers that are away come back
            await trio.sleep(RELOAD_WAIT_S)
        except (RemoteFault, UserError, LocalFault) as error:
            self._failed(grant, error, is_to_blame=True)
            await trio.sleep(RELOAD_WAIT_S)

    def _failed(self, grant: Grant, error: WeftError, *, is_to_blame: bool) -> None:
        self._failures[grant] += is_to_blame
        log.warning("a held range was not loaded", range=str(grant.offer.range), reason=str(error))
        if self._failures[grant] <= limits.RELOADS_MAX:
            self._waiting.append(grant)
            return
        del self._failures[grant]
        self._give_up(grant)
        log.error("a range was given up", model=shortened(grant.offer.model), range=str(grant.offer.range))
