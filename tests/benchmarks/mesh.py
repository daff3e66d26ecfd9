"""The mesh: every figure of `make bench NAME=mesh`, in parts that can be measured one by one (`NAME=mesh:lookup`).

A part that can't be measured says why and does not keep the others from it; `PartsFailed` comes at the end. On two quiet cores the
whole takes about half an hour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from node.demo.local_mesh import LocalMesh
from tests.benchmarks import mesh_liveness, mesh_plan, mesh_stack, ring
from tests.benchmarks.direct_pair import measure_direct
from tests.benchmarks.failover import measure_failover
from tests.benchmarks.figures import Figure
from tests.benchmarks.hop import measure_hop
from tests.benchmarks.mesh_gossip import measure_signed
from tests.benchmarks.mesh_idle import measure_idle
from tests.benchmarks.mesh_lookup import measure_cold, measure_table
from tests.benchmarks.mesh_weights import measure_weights
from tests.benchmarks.model import LLAMA_100M, model_folder
from tests.benchmarks.parts import Part, run_parts

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """All parts. Raises `PartsFailed` after the last of them if one failed."""
    yield from run_parts("mesh", PARTS, say)


def _hop(say: Say) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as root:
        yield measure_hop(Path(root), ring.SETTINGS, say)


def _failover(say: Say) -> Iterator[Figure]:
    folder = model_folder("llama-100m", LLAMA_100M)
    with (
        tempfile.TemporaryDirectory(prefix="weft-bench-") as root,
        LocalMesh(Path(root), ring.NAMES, ring.SETTINGS) as mesh,
    ):
        mesh.start()
        ring.offer_evenly(mesh, folder, say)
        yield from measure_failover(mesh, folder.name, folder, say)


def _weights(say: Say) -> Iterator[Figure]:
    yield measure_weights(say)


def _idle(say: Say) -> Iterator[Figure]:
    yield measure_idle(say)


def _lookup(say: Say) -> Iterator[Figure]:
    yield measure_cold(say)
    yield measure_table(say)


def _gossip(say: Say) -> Iterator[Figure]:
    yield measure_direct(say)
    yield measure_signed(say)


def _ring(say: Say) -> Iterator[Figure]:
    yield from ring.measure(say)


PARTS: Final[dict[str, Part]] = {
    "hop": _hop,
    "ring": _ring,
    "stack": mesh_stack.measure,
    "failover": _failover,
    "weights": _weights,
    "idle": _idle,
    "lookup": _lookup,
    "gossip": _gossip,
    "liveness": mesh_liveness.measure,
    "plan": mesh_plan.measure,
}
