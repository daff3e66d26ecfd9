"""What waits to be sent on one connection, and which of it goes next: a pure machine.

The most urgent stream that has something to send and may send it goes first; streams of one priority take turns, a chunk
each. A parcel is a caller's own memory, which is only looked at until its last chunk was taken.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mesh.host.wire.substream import Substream
from protocols import limits
from protocols.streams import Priority

_NOTHING: Final = memoryview(b"")


class Parcel:
    """What one call wants to send on one stream. `is_kept`: the call has returned, and nobody waits for it."""

    __slots__ = ("is_kept", "rest", "stream")

    def __init__(self, stream: Substream, data: memoryview) -> None:
        self.stream = stream
        self.rest = data
        self.is_kept = False

    @property
    def is_taken(self) -> bool:
        return not self.rest


class Outbox:
    """`finished` are streams of which a parcel was taken whole; whoever tells them clears it."""

    def __init__(self) -> None:
        self.finished: list[Substream] = []
        self._parcels: dict[Substream, deque[Parcel]] = {}
        self._turns: tuple[deque[Substream], ...] = tuple(deque() for _ in Priority)
        self._ready: set[Substream] = set()

    @property
    def has_something(self) -> bool:
        """That may be sent now."""
        return bool(self._ready)

    def has_parcels(self, stream: Substream) -> bool:
        """Of that stream, whether or not they may be sent now."""
        return stream in self._parcels

    def add(self, parcel: Parcel) -> None:
        self._parcels.setdefault(parcel.stream, deque()).append(parcel)
        self.offer(parcel.stream)

    def offer(self, stream: Substream) -> None:
        """Its credit may have grown."""
        if stream.credit_bytes and stream in self._parcels and stream not in self._ready:
            self._ready.add(stream)
            self._turns[stream.priority].append(stream)

    def withdraw(self, parcel: Parcel) -> None:
        """What was not taken yet is not sent; idempotent."""
        parcel.rest = _NOTHING
        waiting = self._parcels.get(parcel.stream)
        if waiting is not None and parcel in waiting:
            waiting.remove(parcel)
            if not waiting:
                del self._parcels[parcel.stream]

    def cut(self, stream: Substream) -> bool:
        """Withdraw what somebody still waits for. Whether anything is left, which has been promised to go out."""
        for parcel in [each for each in self._parcels.get(stream, ()) if not each.is_kept]:
            self.withdraw(parcel)
        return stream in self._parcels

    def drop(self, stream: Substream) -> None:
        """Forget all that waits for a stream."""
        for parcel in self._parcels.pop(stream, ()):
            parcel.rest = _NOTHING

    def take(self) -> tuple[Substream, memoryview] | None:
        """The next chunk, no larger than its stream's credit; None if nothing may be sent."""
        for turn in self._turns:
            while turn:
                stream = turn.popleft()
                self._ready.discard(stream)
                waiting = self._parcels.get(stream)
                if waiting is not None and stream.credit_bytes:
                    return stream, self._take_of(stream, waiting)
        return None

    def _take_of(self, stream: Substream, waiting: deque[Parcel]) -> memoryview:
        parcel = waiting[0]
        size_bytes = min(len(parcel.rest), stream.credit_bytes, limits.WIRE_CHUNK_BYTES)
        chunk, parcel.rest = parcel.rest[:size_bytes], parcel.rest[size_bytes:]
        if parcel.is_taken:
            waiting.popleft()
            self.finished.append(stream)
            if not waiting:
                del self._parcels[stream]
        if waiting and stream.credit_bytes > size_bytes:
            self._ready.add(stream)
            self._turns[stream.priority].append(stream)
        return chunk
