"""Peer events for any number of readers, each with a queue of its own; a reader that falls behind is let go, with an error."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final
from weakref import WeakSet

import trio

from protocols.errors import Overloaded
from protocols.seams import PeerEvent

BEHIND_MAX: Final = 1024


class _Reader(AsyncIterator[PeerEvent]):
    def __init__(self) -> None:
        self._waiting: deque[PeerEvent] = deque()
        self._has_ended = False
        self._fell_behind = False
        self._changed = trio.lowlevel.ParkingLot()

    def put(self, event: PeerEvent) -> None:
        if len(self._waiting) >= BEHIND_MAX:
            self._fell_behind = True
        else:
            self._waiting.append(event)
        self._changed.unpark_all()

    def end(self) -> None:
        self._has_ended = True
        self._changed.unpark_all()

    async def __anext__(self) -> PeerEvent:
        await trio.lowlevel.checkpoint()
        while not (self._waiting or self._has_ended or self._fell_behind):
            await self._changed.park()
        if self._fell_behind:
            raise Overloaded(f"a reader of peer events fell {BEHIND_MAX} behind")
        if not self._waiting:
            raise StopAsyncIteration
        return self._waiting.popleft()


class PeerEvents:
    """`publish` never waits."""

    def __init__(self) -> None:
        self._readers: WeakSet[_Reader] = WeakSet()

    def subscribe(self) -> AsyncIterator[PeerEvent]:
        """All events from this call on; raises `Overloaded` from the reader that falls `BEHIND_MAX` behind."""
        reader = _Reader()
        self._readers.add(reader)
        return reader

    def publish(self, event: PeerEvent) -> None:
        for reader in self._readers:
            reader.put(event)

    def end(self) -> None:
        """Readers get what they have not read yet, and then the end."""
        for reader in self._readers:
            reader.end()
