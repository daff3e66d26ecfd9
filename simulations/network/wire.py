"""The way between two virtual hosts: what is posted on one side is carried out on the other, later and in order.

A wire never loses or reorders. While the link is cut or its sender silenced, what was posted waits, and arrives after the
link has healed: that is how TCP looks from above, where lost packets are sent again and a hole in a stream can't be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from protocols.ids import PeerId

Action = Callable[[], None]


@dataclass(slots=True)
class Links:
    """The state of all links: their latency, and which of them let nothing through."""

    latency_s: float
    _latencies_s: dict[frozenset[PeerId], float] = field(default_factory=dict)
    _cut: set[frozenset[PeerId]] = field(default_factory=set)
    _silent: set[PeerId] = field(default_factory=set)
    _healed: trio.Event = field(default_factory=trio.Event)

    def set_latency(self, one: PeerId, two: PeerId, latency_s: float) -> None:
        self._latencies_s[frozenset({one, two})] = latency_s

    def cut(self, one: PeerId, two: PeerId) -> None:
        self._cut.add(frozenset({one, two}))

    def silence(self, peer: PeerId) -> None:
        self._silent.add(peer)

    def heal(self) -> None:
        self._cut.clear()
        self._silent.clear()
        self._healed.set()
        self._healed = trio.Event()

    def latency_between_s(self, one: PeerId, two: PeerId) -> float:
        return self._latencies_s.get(frozenset({one, two}), self.latency_s)

    def is_open(self, one: PeerId, two: PeerId) -> bool:
        return frozenset({one, two}) not in self._cut and not self._silent & {one, two}

    async def cross(self, one: PeerId, two: PeerId) -> None:
        """Returns when what `one` says now reaches `two`; waits for `heal` if nothing gets through."""
        await self.cross_by(one, two, trio.current_time() + self.latency_between_s(one, two))

    async def cross_by(self, one: PeerId, two: PeerId, due: float) -> None:
        await trio.sleep_until(due)
        while not self.is_open(one, two):
            await self._healed.wait()


class Wire:
    """One direction of one connection."""

    def __init__(self, links: Links, source: PeerId, target: PeerId) -> None:
        self._links = links
        self._source = source
        self._target = target
        self._posted: deque[tuple[float, Action]] = deque()
        self._arrivals = trio.lowlevel.ParkingLot()
        self._is_done = False

    def post(self, action: Action) -> None:
        """Have `action` carried out at the target; the windows of the streams bound how much is under way."""
        latency_s = self._links.latency_between_s(self._source, self._target)
        self._posted.append((trio.current_time() + latency_s, action))
        self._arrivals.unpark_all()

    def finish(self) -> None:
        """The last action was posted, or the target listens no longer."""
        self._is_done = True
        self._arrivals.unpark_all()

    async def carry(self) -> None:
        """Runs at the target until the wire is finished and empty."""
        while self._posted or not self._is_done:
            if not self._posted:
                await self._arrivals.park()
                continue
            due, action = self._posted.popleft()
            await self._links.cross_by(self._source, self._target, due)
            action()
