"""Costs: the planner's problem in numbers, with nodes as indices.

The predicted time per token is that of a ring: the compute of all layers, plus a hop for every change of node on the way from the
entry along the chain and back. A hop is the latency and software of its link, and between ranges the bytes of one row over its
bandwidth; to the first range and back from the last only a token travels.

For the choice, though not for the prediction, a node's compute and the hop to it are divided by its score: who serves eight of ten
steps is tried 10/8 times for each. A busy node's layers take 1/(1 - load) of their time: the rest of it serves others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from inference.placement.planning.plan import LinkTable, NodeView
from inference.placement.planning.room import Room
from inference.placement.planning.sharing import fill_layers
from protocols.ids import PeerId

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LAYER_MS_MIN: Final = 1e-9
LAYER_MS_MAX: Final = (
    1e6  # a quarter of an hour: what a node says beyond it, be it infinite, makes no difference
)
LOAD_MAX: Final = 0.9  # of a node that says it has no time left: its layers count ten times
SCORED_MIN: Final = (
    0.01  # a score below counts as this one, so that a node without any still has a finite time
)
SCORE_MIN: Final = 0.3  # below, a node is left out while the others suffice


@dataclass(frozen=True, slots=True)
class Chain:
    """Nodes along the chain as indices into the peers of the problem, and their layers."""

    order: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Of the nodes that can hold a layer. The four caps are for ranges inside, at one end, or of the whole model."""

    layers: int
    layer_ms: Floats  # [node]
    inner: Counts  # [node]
    first: Counts  # [node]
    last: Counts  # [node]
    whole: Counts  # [node]
    enter_ms: Floats  # [node] entry to node
    hop_ms: Floats  # [from, to]
    leave_ms: Floats  # [node] node to entry
    row_ms: Floats  # [from, to] the part of the hop that no other row can use

    @property
    def nodes(self) -> int:
        return len(self.layer_ms)

    def caps(self, order: Sequence[int]) -> list[int]:
        if len(order) == 1:
            return [int(self.whole[order[0]])]
        inside = [int(self.inner[node]) for node in order[1:-1]]
        return [int(self.first[order[0]]), *inside, int(self.last[order[-1]])]

    def fits(self, order: Sequence[int]) -> bool:
        caps = self.caps(order)
        return min(caps) >= 1 and len(order) <= self.layers <= sum(caps)

    def ring_ms(self, order: Sequence[int]) -> float:
        """All hops of one token."""
        between = sum(float(self.hop_ms[a, b]) for a, b in itertools.pairwise(order))
        return float(self.enter_ms[order[0]]) + between + float(self.leave_ms[order[-1]])

    def filled(self, order: Sequence[int]) -> Chain:
        """The least compute for one token in that order, which must fit."""
        times = [float(self.layer_ms[node]) for node in order]
        return Chain(tuple(order), fill_layers(self.layers, times, self.caps(order)))

    def token_ms(self, chain: Chain) -> float:
        return self.compute_ms(chain) + self.ring_ms(chain.order)

    def compute_ms(self, chain: Chain) -> float:
        return sum(
            count * float(self.layer_ms[node]) for node, count in zip(chain.order, chain.counts, strict=True)
        )

    def slowest_ms(self, chain: Chain) -> float:
        """The stage or link that bounds the rate of many streams."""
        stages = [
            count * float(self.layer_ms[node]) for node, count in zip(chain.order, chain.counts, strict=True)
        ]
        return max(*stages, *(float(self.row_ms[a, b]) for a, b in itertools.pairwise(chain.order)), 0.0)

    def along(self, order: Sequence[int]) -> Costs:
        """Of those nodes only, counted in that order."""
        picked = np.array(order, np.int64)
        between = np.ix_(picked, picked)
        return Costs(
            self.layers,
            layer_ms=self.layer_ms[picked],
            inner=self.inner[picked],
            first=self.first[picked],
            last=self.last[picked],
            whole=self.whole[picked],
            enter_ms=self.enter_ms[picked],
            hop_ms=self.hop_ms[between],
            leave_ms=self.leave_ms[picked],
            row_ms=self.row_ms[between],
        )

    def scored(self, scores: Sequence[float]) -> Costs:
        """For the choice: with the share by which bad nodes are avoided."""
        tries = 1 / np.clip(np.array(scores, np.float64), SCORED_MIN, 1.0)
        return replace(
            self,
            layer_ms=self.layer_ms * tries,
            enter_ms=self.enter_ms * tries,
            hop_ms=self.hop_ms * tries,
        )

    def within(self, stage_ms: float) -> Costs:
        """The same, without stages and links that take longer than that."""
        takes_time = self.layer_ms > 0
        times = np.where(takes_time, self.layer_ms, 1.0)
        most = np.where(takes_time, np.minimum(stage_ms * (1 + 1e-9) / times, self.layers), self.layers)
        most = most.astype(np.int64)
        return replace(
            self,
            inner=np.minimum(self.inner, most),
            first=np.minimum(self.first, most),
            last=np.minimum(self.last, most),
            whole=np.minimum(self.whole, most),
            hop_ms=np.where(self.row_ms > stage_ms * (1 + 1e-9), np.inf, self.hop_ms),
        )


def expected_layer_ms(view: NodeView) -> float:
    """Of a node as busy as it is now."""
    layer_ms = view.capacity.layer_ms
    if not layer_ms < LAYER_MS_MAX:
        layer_ms = LAYER_MS_MAX
    elif 0 < layer_ms < LAYER_MS_MIN:  # no measurement: and its inverse is no number
        layer_ms = LAYER_MS_MIN
    return layer_ms / (1 - min(max(view.load, 0.0), LOAD_MAX))


def costs_of(room: Room, peers: Sequence[PeerId], entry: PeerId, links: LinkTable) -> Costs:
    """As predicted, for those peers in that order."""
    hop_ms, row_ms = _hops(peers, links, room.size.row_bytes)
    return Costs(
        room.size.layers,
        layer_ms=np.array([expected_layer_ms(room.nodes[peer]) for peer in peers], np.float64),
        inner=np.array([room.cap(peer) for peer in peers], np.int64),
        first=np.array([room.cap(peer, is_first=True) for peer in peers], np.int64),
        last=np.array([room.cap(peer, is_last=True) for peer in peers], np.int64),
        whole=np.array([room.cap(peer, is_first=True, is_last=True) for peer in peers], np.int64),
        enter_ms=np.array([links.between(entry, peer).hop_ms for peer in peers], np.float64),
        hop_ms=hop_ms,
        leave_ms=np.array([links.between(peer, entry).hop_ms for peer in peers], np.float64),
        row_ms=row_ms,
    )


def _hops(peers: Sequence[PeerId], links: LinkTable, row_bytes: int) -> tuple[Floats, Floats]:
    """Hops with their bytes, and the bytes alone; as matrices, because a table of 200 nodes has 20,000 links."""
    count = len(peers)
    places: Mapping[PeerId, int] = {peer: place for place, peer in enumerate(peers)}
    row_ms = np.full((count, count), links.default.row_ms(row_bytes))
    hop_ms = np.full((count, count), links.default.hop_ms)
    listed = np.zeros((count, count), bool)
    for (one, other), link in links.links.items():
        a, b = places.get(one), places.get(other)
        if a is None or b is None:
            continue
        hop_ms[a, b], row_ms[a, b], listed[a, b] = link.hop_ms, link.row_ms(row_bytes), True
    mirrored = listed.T & ~listed
    hop_ms[mirrored], row_ms[mirrored] = hop_ms.T[mirrored], row_ms.T[mirrored]
    np.fill_diagonal(hop_ms, 0.0)
    np.fill_diagonal(row_ms, 0.0)
    return hop_ms + row_ms, row_ms
