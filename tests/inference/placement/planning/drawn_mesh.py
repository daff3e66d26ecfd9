"""Meshes drawn at random for the planner: unlike nodes at a few sites, with links between them, and a model that mostly fits."""

from __future__ import annotations

from random import Random

from inference.placement.planning.plan import Link, LinkTable, ModelSize
from protocols.ids import PeerId
from protocols.limits import MIB
from protocols.placement import Capacity
from tests.inference.placement.planning.every_chain import Mesh


def draw_mesh(random: Random, nodes: int, layers: int, *, tightness: float | None = None) -> Mesh:
    """`tightness`: how much of all memory the model takes; drawn if not given, so that few or most nodes are needed."""
    embedding, head = (random.choice([0, 1, 3]) * MIB for _ in range(2))
    size = ModelSize(
        "drawn", layers, MIB, embedding, head, MIB // 4, kv_row_bytes=64, row_bytes=random.choice([0, 8192])
    )
    peers = [PeerId(f"12D3KooW{number:044}") for number in range(nodes)]
    tightness = random.uniform(0.1, 0.9) if tightness is None else tightness
    usual_bytes = size.bytes_of(size.whole) / tightness / nodes
    capacities = {
        peer: Capacity(
            10 ** random.uniform(-1.5, 1.5),
            int(usual_bytes * random.uniform(0.2, 1.8)) + random.choice([0, 4 * MIB]),
            random.choice([0, 0, 0, random.randint(1, max(1, layers // 2))]),
        )
        for peer in peers
    }
    return Mesh(size, capacities, random.choice(peers), _draw_links(random, peers))


def _draw_links(random: Random, peers: list[PeerId]) -> LinkTable:
    """Sites some way from each other; a pair in eight was never measured."""
    kind = random.choice(["uniform", "sites", "any"])
    scale = 10 ** random.uniform(-0.5, 1.7)
    if kind == "uniform":
        return LinkTable(default=Link(scale, 10 ** random.uniform(6, 9)))
    sites = {peer: (random.uniform(0, scale), random.uniform(0, scale)) for peer in peers}
    if kind == "sites":
        places = [(random.uniform(0, scale), random.uniform(0, scale)) for _ in range(3)]
        sites = {peer: random.choice(places) for peer in peers}
    links = {}
    for index, one in enumerate(peers):
        for other in peers[:index]:
            (x, y), (u, v) = sites[one], sites[other]
            distance_ms = ((x - u) ** 2 + (y - v) ** 2) ** 0.5 * random.uniform(0.9, 1.5)
            if random.random() > 1 / 8:
                links[one, other] = Link(0.5 + distance_ms, 10 ** random.uniform(6, 9))
    return LinkTable(links, Link(1 + scale))
