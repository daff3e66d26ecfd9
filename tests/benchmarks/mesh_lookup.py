"""How long "who serves layers R of model X" takes: of the local table, without asking anybody, and of a node that has just joined.

The table: 1,000 claims of 200 peers for 5 models, each peer with 5 ranges of different models, as the worst of the tables that the mesh is
made for. Every question is another model and range; the time of one question is its own measurement, and garbage collection stays on.

The cold look-up: twelve processes on loopback, each of which claims a range of one model, and a standby of the next. A process with a
fresh home joins by an invite, and from the moment at which it is in until its table answers for a range is one measurement; each
joiner asks for all twelve ranges, then it leaves.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from inference.placement.claims import ClaimTable
from protocols.ids import ModelDigest
from protocols.placement import Claim, Claims, LayerRange
from simulations.network.internet import peer_id
from tests.benchmarks.figures import Figure, figure_of, percentile
from tests.benchmarks.mesh_processes import ProcessMesh

PEERS: Final = 200
MODELS: Final = tuple(ModelDigest(f"{number:064x}") for number in range(5))
LAYERS: Final = 80
RANGE_LAYERS: Final = 8
QUESTIONS: Final = 4000
NODES: Final = 12
MESHES: Final = 5
JOINS_PER_MESH: Final = 8  # few: whoever leaves is still a member, of whom the next joiner hears as well
SETTLE_S: Final = 5.0
FOUND_S: Final = 30.0


def filled_table(rng: Random) -> ClaimTable:
    """Every peer holds one range of every model; every tenth claim is a standby."""
    table = ClaimTable()
    for number in range(PEERS):
        peer = peer_id(number)
        claims = []
        for model in MODELS:
            start = rng.randrange(LAYERS // RANGE_LAYERS) * RANGE_LAYERS
            layers = LayerRange(start, start + RANGE_LAYERS)
            ms = rng.uniform(0.2, 4.0)
            claims.append(Claim(peer, model, layers, rng.random() < 0.1, "bf16", "exact", "cpu", ms, 1, 1))
        table.tell(peer, Claims(tuple(claims)))
    return table


def measure_table(say: Callable[[str], None]) -> Figure:
    """`table_lookup_ms`, the 99th percentile of single questions."""
    rng = Random(11)
    table = filled_table(rng)
    say(f"{QUESTIONS} questions to a table of {len(table.claims())} claims of {PEERS} peers")
    took_ms = []
    found = 0
    for _ in range(QUESTIONS):
        model = rng.choice(MODELS)
        start = rng.randrange(LAYERS - 4)
        began_s = time.perf_counter()
        holders = table.serving(model, LayerRange(start, start + 4))
        took_ms.append((time.perf_counter() - began_s) * 1e3)
        found += len(holders)
    assert found, "a table that finds nobody is quick"
    return figure_of("table_lookup_ms", took_ms, 0.99, "ms", digits=4)


def measure_cold(say: Callable[[str], None], meshes: int = MESHES) -> Figure:
    """`lookup_ms_p99`, over all questions of all joiners. Raises `Unavailable` if a range is not found within `FOUND_S`."""
    joins: list[list[float]] = []
    for number in range(meshes):
        with tempfile.TemporaryDirectory() as folder, ProcessMesh(NODES, Path(folder)) as mesh:
            mesh.hold_all()
            time.sleep(SETTLE_S)
            say(f"mesh {number + 1}/{meshes}: {NODES} processes hold a range each")
            joins += [_join(mesh, joiner) for joiner in range(JOINS_PER_MESH)]
        firsts = ", ".join(f"{min(took_ms):.0f}-{max(took_ms):.0f}" for took_ms in joins[-JOINS_PER_MESH:])
        say(f"the first range and the last of each joiner after {firsts} ms")
    found_ms = [one_ms for took_ms in joins for one_ms in took_ms]
    whole_ms = [max(took_ms) for took_ms in joins]
    spread = {
        "p50": round(percentile(found_ms, 0.5), 1),
        "max": round(max(found_ms), 1),
        "all_ranges_p50": round(percentile(whole_ms, 0.5), 1),
        "all_ranges_p99": round(percentile(whole_ms, 0.99), 1),
    }
    return Figure("lookup_ms_p99", round(percentile(found_ms, 0.99), 1), "ms", len(joins), spread)


def _join(mesh: ProcessMesh, number: int) -> list[float]:
    joiner = mesh.join(f"joiner-{number}", NODES)
    try:
        took_ms: list[float] = joiner.answer("looked_up_ms", FOUND_S)
    finally:
        joiner.leave()
    return took_ms
