"""Watches this node's memory: does what `inference.engine.memory.pressure` says, and closes caches that no session has any more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, assert_never

import structlog
import trio

from inference.engine.memory.orphans import Orphans
from inference.engine.memory.pressure import (
    Accept,
    Action,
    DropPrefixes,
    LimitRows,
    Pressure,
    Reading,
    Refuse,
    ShedRange,
)
from inference.placement.driver import Placement
from inference.sessions.shard import ShardServer
from mesh.rpc import deadline
from node.machine import Footprint, Memory
from protocols import limits
from protocols.errors import RemoteFault, Unavailable
from protocols.seams import CacheKey, ShardWorker

log = structlog.get_logger("node.memory")

LOOK_S: Final = 1.0
ORPHANS_S: Final = 15.0
WORKER_OWN_BYTES: Final = (
    512 * limits.MIB
)  # torch itself, about 160 MiB, and what a step or a load needs for a moment
CARD_WORKER_BYTES: Final = 4096 * limits.MIB  # the card's driver, pinned rows, and a tensor on its way there
LOADING_SHARE: Final = 8  # of the weights on top, while they are loaded


@dataclass(frozen=True, slots=True)
class Measured:
    """The machine, and the worker's process with its children."""

    machine: Memory
    worker: Footprint


NOTHING: Final = Measured(Memory(0, 0), Footprint())
Measure = Callable[[int | None], Measured]
"""Asks the machine; given the worker's pid, if it has one."""


class MemoryWatch:
    """`pressure` says how it stands. Where there is no machine to `measure`, as in a simulation, nothing is watched."""

    def __init__(
        self,
        worker: ShardWorker,
        server: ShardServer,
        placement: Placement,
        measure: Measure | None,
    ) -> None:
        self._worker = worker
        self._server = server
        self._placement = placement
        self._measure = measure
        self._orphans = Orphans()
        self.pressure = Pressure()
        self.orphans_closed = 0
        self.has_spare_range = True  # as far as is known: there was one to let go of when that was last tried

    async def run(self) -> None:
        """Until cancelled, or at once where nothing is measured."""
        if self._measure is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_pressure)
            nursery.start_soon(self._watch_caches)

    def measured(self) -> Measured:
        """Now; nothing but zeros where nothing is measured."""
        return self._measure(self._worker.pid) if self._measure is not None else NOTHING

    def limit_bytes(self, worker: Footprint) -> int:
        """What the worker's processes may take in all."""
        memory = self._worker.memory()
        if memory.device != "cpu":
            return CARD_WORKER_BYTES
        budget_bytes = memory.budget_bytes
        return budget_bytes + budget_bytes // LOADING_SHARE + worker.processes * WORKER_OWN_BYTES

    # Pressure --------------------------------------------------------------------------------------------------------

    async def _watch_pressure(self) -> None:
        while True:
            level = self.pressure.level
            actions = self.pressure.handle(self._reading(), trio.current_time())
            if self.pressure.level != level:
                log.warning("memory_pressure", level=self.pressure.level.name, reason=self.pressure.reason)
            for action in actions:
                await self._act(action)
            await trio.sleep(LOOK_S)

    def _reading(self) -> Reading:
        measured, memory = self.measured(), self._worker.memory()
        is_here = memory.device == "cpu"
        return Reading(
            available=measured.machine.available_bytes,
            total=measured.machine.total_bytes,
            promised=memory.reserved_bytes - memory.used_bytes if is_here else 0,
            worker=measured.worker.private_bytes,
            allowed=self.limit_bytes(measured.worker),
            kept=memory.prefix_bytes if is_here else 0,
            is_elsewhere=not is_here,
        )

    async def _act(self, action: Action) -> None:
        match action:
            case Refuse(reason):
                self._server.shortage = reason
            case Accept():
                self._server.shortage = ""
            case LimitRows(rows):
                with suppress(Unavailable), deadline(limits.REPLY_S, "the worker does not answer"):
                    await self._worker.limit_rows(rows)
            case DropPrefixes():
                with suppress(Unavailable), deadline(limits.REPLY_S, "the worker does not answer"):
                    await self._worker.drop_prefixes()
            case ShedRange():
                await self._shed()
            case _:
                assert_never(action)

    async def _shed(self) -> None:
        with suppress(Unavailable):
            claim = await self._placement.shed()
            if claim is not None:
                log.warning("range_let_go", range=str(claim.range), reason=self.pressure.reason)
            elif self.has_spare_range:
                log.error(
                    "no_range_to_let_go",
                    reason=self.pressure.reason,
                    next="withdraw a model, or stop another program",
                )
            self.has_spare_range = claim is not None

    # Orphans ---------------------------------------------------------------------------------------------------------

    async def _watch_caches(self) -> None:
        while True:
            await trio.sleep(ORPHANS_S)
            with suppress(Unavailable), deadline(limits.REPLY_S, "the worker does not answer"):
                for key in self._orphans.look(await self._worker.caches(), self._is_in_use):
                    await self._close(key)

    def _is_in_use(self, key: CacheKey) -> bool:
        shard, session, stage = key
        opened = self._server.sessions.get((session, stage))
        return opened is not None and (opened.model, opened.range) == (shard.model, shard.range)

    async def _close(self, key: CacheKey) -> None:
        shard, session, stage = key
        log.warning("orphaned_cache", session=session, stage=stage, range=str(shard.range))
        with suppress(RemoteFault):
            await self._worker.close_cache(shard, session, stage)
            self.orphans_closed += 1
