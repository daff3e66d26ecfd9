"""The state of the internet: what every way between two machines is like, and which of them let nothing through.

A way is directed, from a source to a target. `lay` is what a script says of it, `set` a disturbance on top, `reset` the end
of the disturbance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import trio

from protocols.ids import PeerId
from protocols.streams import Plane
from simulations.chance import Chance, chance
from simulations.network.delivery import TICKS_PER_S, Delivery
from simulations.network.lane import HANDSHAKE_BYTES, Lane


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two machines; `loss` is the share of segments that are lost."""

    latency_s: float = 0.001
    jitter_s: float = 0.0
    bandwidth_bytes_s: float = math.inf
    loss: float = 0.0


class Links:
    """`seed` is that of the run: every way draws its jitter and losses from a sequence of its own."""

    def __init__(self, default: Link, seed: int, delivery: Delivery) -> None:
        self._default = default
        self._seed = seed
        self._delivery = delivery
        self._laid: dict[tuple[PeerId, PeerId], Link] = {}
        self._disturbed: dict[tuple[PeerId, PeerId], Link] = {}
        self._lanes: dict[tuple[PeerId, PeerId, Plane], Lane] = {}
        self._chances: dict[tuple[PeerId, PeerId], Chance] = {}
        self._cut: set[tuple[PeerId, PeerId]] = set()
        self._silent: set[PeerId] = set()
        self._vanished: set[PeerId] = set()
        self._changed = trio.Event()

    # What they are like ------------------------------------------------------------------------------------------------

    @property
    def default(self) -> Link:
        """Of every way that nobody has said anything of."""
        return self._default

    @default.setter
    def default(self, link: Link) -> None:
        self._default = link
        for lane in self._lanes.values():
            self._describe(lane)

    @property
    def latency_s(self) -> float:
        return self._default.latency_s

    @latency_s.setter
    def latency_s(self, latency_s: float) -> None:
        self.default = replace(self._default, latency_s=latency_s)

    def lay(self, source: PeerId, target: PeerId, link: Link) -> None:
        """What the way is like when nothing disturbs it."""
        self._laid[source, target] = link
        self._describe_way(source, target)

    def set(self, source: PeerId, target: PeerId, link: Link) -> None:
        """What it is like until `reset`. What is under way arrives as it would have, and nothing overtakes it."""
        self._disturbed[source, target] = link
        self._describe_way(source, target)

    def reset(self, source: PeerId, target: PeerId) -> None:
        """As it was laid again."""
        self._disturbed.pop((source, target), None)
        self._describe_way(source, target)

    def set_latency(self, one: PeerId, two: PeerId, latency_s: float) -> None:
        """Of both directions; nothing else of them changes."""
        for source, target in ((one, two), (two, one)):
            self.lay(source, target, replace(self.between(source, target), latency_s=latency_s))

    def between(self, source: PeerId, target: PeerId) -> Link:
        way = (source, target)
        return self._disturbed.get(way) or self._laid.get(way, self._default)

    def lane(self, source: PeerId, target: PeerId, plane: Plane = Plane.CONTROL) -> Lane:
        """Where everything queues that goes this way on one plane."""
        lane = self._lanes.get((source, target, plane))
        if lane is None:
            lane = self._lanes[source, target, plane] = Lane(source, target, plane, self._delivery)
            self._describe(lane)
            lane.is_open = self.is_open(source, target)
        return lane

    def _describe_way(self, source: PeerId, target: PeerId) -> None:
        for way in (
            (source, target),
            (target, source),
        ):  # the round trip has changed for the other direction too
            for plane in Plane:
                if (lane := self._lanes.get((*way, plane))) is not None:
                    self._describe(lane)

    def _describe(self, lane: Lane) -> None:
        link, back = self.between(lane.source, lane.target), self.between(lane.target, lane.source)
        way = (lane.source, lane.target)
        if (link.jitter_s or link.loss) and way not in self._chances:
            self._chances[way] = chance(self._seed, "links", *way)
        lane.describe(
            link.latency_s,
            link.jitter_s,
            link.bandwidth_bytes_s,
            link.loss,
            round_trip_s=link.latency_s + back.latency_s,
            chance=self._chances.get(way),
        )

    def due_s(self, source: PeerId, target: PeerId) -> float:
        """When the last of what is under way arrives: it may have queued while the way was slow."""
        lanes = (self._lanes.get((source, target, plane)) for plane in Plane)
        return max((lane.due_ms for lane in lanes if lane is not None), default=0) / TICKS_PER_S

    # What they let through ---------------------------------------------------------------------------------------------

    def is_open(self, source: PeerId, target: PeerId) -> bool:
        if (source, target) in self._cut:
            return False
        return not any(peer in self._silent or peer in self._vanished for peer in (source, target))

    def _refresh(self, lanes: Iterable[Lane | None]) -> None:
        for lane in lanes:
            if lane is not None:
                lane.set_open(self.is_open(lane.source, lane.target))
        self._changed.set()
        self._changed = trio.Event()

    def _refresh_way(self, source: PeerId, target: PeerId) -> None:
        self._refresh(self._lanes.get((source, target, plane)) for plane in Plane)

    def _refresh_peer(self, peer: PeerId) -> None:
        self._refresh(lane for lane in self._lanes.values() if peer in (lane.source, lane.target))

    def cut(self, source: PeerId, target: PeerId) -> None:
        self._cut.add((source, target))
        self._refresh_way(source, target)

    def mend(self, one: PeerId, two: PeerId) -> None:
        for way in ((one, two), (two, one)):
            self._cut.discard(way)
            self._refresh_way(*way)

    def silence(self, peer: PeerId) -> None:
        self._silent.add(peer)
        self._refresh_peer(peer)

    def unsilence(self, peer: PeerId) -> None:
        self._silent.discard(peer)
        self._refresh_peer(peer)

    def heal(self) -> None:
        """Undo cuts and silences; a machine that has vanished is up when it listens again."""
        self._cut.clear()
        self._silent.clear()
        self._refresh(self._lanes.values())

    def vanish(self, peer: PeerId) -> None:
        self._vanished.add(peer)
        self._refresh_peer(peer)

    def appear(self, peer: PeerId) -> None:
        if peer in self._vanished:
            self._vanished.discard(peer)
            self._refresh_peer(peer)

    async def cross(
        self, source: PeerId, target: PeerId, plane: Plane = Plane.CONTROL, *, after_s: float = 0.0
    ) -> None:
        """Returns when what `source` says `after_s` from now reaches `target`; waits for as long as nothing gets through."""
        arrival_ms = self.lane(source, target, plane).arrival_ms(HANDSHAKE_BYTES, after_s)
        await trio.sleep_until(arrival_ms / TICKS_PER_S)
        while not self.is_open(source, target):
            await self._changed.wait()

    def round_trip_s(self, one: PeerId, two: PeerId) -> float:
        return self.between(one, two).latency_s + self.between(two, one).latency_s
