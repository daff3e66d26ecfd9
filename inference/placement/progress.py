"""Progress of one load, told to the proposer at a steady pace: the newest counts, and only if they are new."""

from __future__ import annotations

import trio

from mesh.rpc import Channel
from protocols import limits
from protocols.placement import LoadProgress, PlacementMessage


class ProgressReport:
    """Any number of `tell`s make at most one message per `PROGRESS_S`."""

    def __init__(self) -> None:
        self._newest: LoadProgress | None = None

    def tell(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        self._newest = LoadProgress(phase, done_bytes, total_bytes)

    async def report(self, channel: Channel[PlacementMessage]) -> None:
        """Until cancelled. Raises `Disconnected` if the proposer is gone."""
        told = None
        while True:
            if self._newest is not None and self._newest != told:
                told = self._newest
                await channel.send(told)
            await trio.sleep(limits.PROGRESS_S)
