"""The best value of any chain: over every subset of a few nodes, every order and every cut, none left out.

Dynamic programming over (set of nodes, last of them, layers covered), which shares nothing with the planner: neither its way of
cutting nor its caps. `walked` does the same by walking through all of them one by one, for a few layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from inference.placement.planning.plan import LinkTable, ModelSize
from protocols.ids import PeerId
from protocols.placement import Capacity


class Mesh:
    """A planning problem with everything spelt out."""

    def __init__(
        self, size: ModelSize, nodes: Mapping[PeerId, Capacity], entry: PeerId, links: LinkTable
    ) -> None:
        self.size, self.nodes, self.entry, self.links = size, nodes, entry, links
        self.peers = sorted(nodes)

    def most(self, peer: PeerId, *, first: bool, last: bool) -> int:
        """Layers that it could hold there."""
        size, capacity = self.size, self.nodes[peer]
        left = capacity.free_bytes - size.embedding_bytes * first - size.head_bytes * last
        return max(0, min(left // (size.layer_bytes + size.kv_bytes), capacity.layers_max or size.layers))

    def hop(self, one: PeerId, other: PeerId, rows: int = 1) -> float:
        link = self.links.between(one, other)
        return link.hop_ms + rows * self.row(one, other)

    def row(self, one: PeerId, other: PeerId) -> float:
        return self.size.row_bytes / self.links.between(one, other).bytes_per_s * 1000


def least_token_ms(mesh: Mesh) -> float:
    """The least time per token of one stream; infinite if nothing fits."""
    best, ends = math.inf, _paths(mesh, np.add, mesh.hop, lambda peer: mesh.hop(mesh.entry, peer, 0))
    for peer, ended_ms in ends:
        best = min(best, ended_ms + mesh.hop(peer, mesh.entry, 0))
    return best


def least_slowest_ms(mesh: Mesh) -> float:
    """The least of the slowest stage or link; infinite if nothing fits."""
    return min((ms for _peer, ms in _paths(mesh, np.maximum, mesh.row, lambda _peer: 0.0)), default=math.inf)


def _paths(mesh, join, hop, enter):
    """(last node, least value) of every set that ends there and holds all layers."""
    layers, peers = mesh.size.layers, mesh.peers
    count = len(peers)
    value = np.full((1 << count, count, layers + 1), np.inf)  # [set, last, covered]
    hops = np.array([[hop(one, other) for other in peers] for one in peers])
    inner = [_takes(mesh, peer, first=False, last=False) for peer in peers]
    last = [_takes(mesh, peer, first=False, last=True)[:, layers] for peer in peers]
    ended = []
    for index, peer in enumerate(peers):
        value[1 << index, index] = join(enter(peer), _takes(mesh, peer, first=True, last=False)[0])
        whole_ms = _takes(mesh, peer, first=True, last=True)[0, layers]
        ended.append((peer, float(join(enter(peer), whole_ms))))
    for members, index in itertools.product(range(1, 1 << count), range(count)):
        if members >> index & 1:
            continue
        arrived = join(value[members], hops[:, index, None]).min(axis=0)  # [covered]
        value[members | 1 << index, index] = join(arrived[:, None], inner[index]).min(axis=0)
        ended.append((peers[index], float(join(arrived[:layers], last[index][:layers]).min())))
    return ended


def _takes(mesh: Mesh, peer: PeerId, *, first: bool, last: bool) -> np.ndarray:
    """Time of a range there by (covered before, covered after)."""
    layers = mesh.size.layers
    most = mesh.most(peer, first=first, last=last)
    more = np.arange(layers + 1)[None, :] - np.arange(layers + 1)[:, None]
    return np.where((more >= 1) & (more <= most), more * mesh.nodes[peer].layer_ms, np.inf)


def walked(mesh: Mesh) -> tuple[float, float]:
    """(least time per token, least slowest stage or link), each over every single chain."""
    best_ms = slowest_ms = math.inf
    layers = mesh.size.layers
    for length in range(1, min(layers, len(mesh.peers)) + 1):
        for order in itertools.permutations(mesh.peers, length):
            for cuts in itertools.combinations(range(1, layers), length - 1):
                counts = [b - a for a, b in itertools.pairwise((0, *cuts, layers))]
                most = [
                    mesh.most(peer, first=place == 0, last=place == length - 1)
                    for place, peer in enumerate(order)
                ]
                if any(count > cap for count, cap in zip(counts, most, strict=True)):
                    continue
                stages = [n * mesh.nodes[peer].layer_ms for n, peer in zip(counts, order, strict=True)]
                pairs = list(itertools.pairwise(order))
                ends_ms = mesh.hop(mesh.entry, order[0], 0) + mesh.hop(order[-1], mesh.entry, 0)
                best_ms = min(best_ms, sum(stages) + ends_ms + sum(mesh.hop(*pair) for pair in pairs))
                slowest_ms = min(slowest_ms, max(*stages, *(mesh.row(*pair) for pair in pairs), 0.0))
    return best_ms, slowest_ms
