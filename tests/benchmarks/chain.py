"""The chain, end to end: what a lost stage costs, what dividing a model costs, and what one hop costs.

One torch thread in every worker, bf16, `exact`. Every wait has its limit, so that the whole ends; on two quiet cores it takes
a few minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from node.demo.local_mesh import LocalMesh
from protocols.errors import UserError
from tests.benchmarks.failover import measure_failover
from tests.benchmarks.figures import Figure
from tests.benchmarks.hop import measure_hop
from tests.benchmarks.model import LLAMA_100M, model_folder
from tests.benchmarks.ring import measure_ring

NAMES: Final = ("one", "two", "three")
SETTINGS: Final = {"WEFT_WORKER_THREADS": "1", "WEFT_MODEL_DTYPE": "bf16", "WEFT_MODEL_NUMERICS": "exact"}
OFFER_S: Final = 120.0

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """Figures as they become known. Raises `WeftError` kinds if the mesh does not come up."""
    folder = model_folder("llama-100m", LLAMA_100M)
    say(f"the model lies in {folder}")
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as root:
        say("a ring of three daemons, and one daemon alone")
        with LocalMesh(Path(root) / "ring", NAMES, SETTINGS) as ring:
            ring.start()
            _offer(ring, folder, say)
            with LocalMesh(Path(root) / "alone", ("alone",), SETTINGS) as alone:
                alone.start()
                _offer(alone, folder, say)
                yield measure_ring(ring, alone, folder.name, say)
            yield from measure_failover(ring, folder.name, folder, say)
        yield measure_hop(Path(root) / "hop", SETTINGS, say)


def _offer(mesh: LocalMesh, folder: Path, say: Say) -> None:
    """Raises `UserError` if a range of a mesh of several has no standby."""
    with mesh.first.client() as client:
        plan: dict[str, Any] = client.call("offer", {"path": str(folder)}, within_s=OFFER_S)["plan"]
    for planned in plan["ranges"]:
        say(f"layers {planned['range']} on {planned['holder_name']}, standby {planned['standby_name']}")
    if len(plan["ranges"]) != len(mesh.nodes) or (
        len(mesh.nodes) > 1 and any(planned["standby"] is None for planned in plan["ranges"])
    ):
        raise UserError(
            "the machine lacks memory for a range and a standby on every daemon: close something."
        )
