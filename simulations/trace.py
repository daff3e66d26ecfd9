"""What happened in a run, in order: its digest, how many events, and the last of each node."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

KEPT_PER_NODE: Final = 200


@dataclass(frozen=True, slots=True)
class TraceEvent:
    at_s: float
    node: str
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:10.3f}  {self.node:<8}  {self.what}"


class Trace:
    """`sink` hears every event as it happens; `stream` all that counts for the digest, events among it."""

    def __init__(
        self,
        sink: Callable[[TraceEvent], None] | None = None,
        stream: Callable[[bytes], None] | None = None,
    ) -> None:
        self.events = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._recent: defaultdict[str, deque[TraceEvent]] = defaultdict(lambda: deque(maxlen=KEPT_PER_NODE))
        self._sink = sink
        self._stream = stream

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def note(self, node: str, what: str) -> None:
        """Something that people would want to read about."""
        event = TraceEvent(trio.current_time(), node, what)
        self.carried(f"{event.at_s:.6f} {node} {what}".encode())
        self._recent[node].append(event)
        if self._sink is not None:
            self._sink(event)

    def carried(self, data: bytes) -> None:
        """Something that only counts for the digest, such as bytes that crossed a wire."""
        self.events += 1
        self._digest.update(data)
        if self._stream is not None:
            self._stream(data)

    def recent(self, nodes: tuple[str, ...]) -> list[TraceEvent]:
        """The last events of these nodes, oldest first."""
        return sorted(
            (event for node in nodes for event in self._recent.get(node, ())), key=lambda each: each.at_s
        )
