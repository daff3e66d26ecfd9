"""The local table of claims: how long "who serves layers R of model X" takes, without asking anybody.

1,000 claims of 200 peers for 5 models, each peer with 5 ranges of different models, as the worst of the tables that the mesh is
made for. Every question is another model and range; the time of one question is its own measurement, and garbage collection stays on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Final

from inference.placement.claims import ClaimTable
from protocols.ids import ModelDigest
from protocols.placement import Claim, Claims, LayerRange
from simulations.network import peer_id
from tests.benchmarks.figures import Figure, figure_of

PEERS: Final = 200
MODELS: Final = tuple(ModelDigest(f"{number:064x}") for number in range(5))
LAYERS: Final = 80
RANGE_LAYERS: Final = 8
QUESTIONS: Final = 4000


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
