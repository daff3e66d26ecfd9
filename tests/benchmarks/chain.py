"""The chain, end to end: what a lost stage costs, what dividing a model costs, and what one hop costs.

One torch thread in every worker, bf16, `exact`. Every wait has its limit, so that the whole ends; on two quiet cores it takes
a few minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from node.demo.local_mesh import LocalMesh
from tests.benchmarks.failover import measure_failover
from tests.benchmarks.figures import Figure
from tests.benchmarks.hop import measure_hop
from tests.benchmarks.model import LLAMA_100M, model_folder
from tests.benchmarks.ring import NAMES, SETTINGS, measure_rings, offer_evenly

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """Figures as they become known. Raises `WeftError` kinds if the mesh does not come up."""
    folder = model_folder("llama-100m", LLAMA_100M)
    say(f"the model lies in {folder}")
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as root:
        say("a ring of three daemons, and one daemon alone")
        with LocalMesh(Path(root) / "ring", NAMES, SETTINGS) as ring:
            ring.start()
            offer_evenly(ring, folder, say)
            with LocalMesh(Path(root) / "alone", ("alone",), SETTINGS) as alone:
                alone.start()
                offer_evenly(alone, folder, say)
                yield from measure_rings({"ring3_ratio": ring}, alone, folder.name, say)
            yield from measure_failover(ring, folder.name, folder, say)
        yield measure_hop(Path(root) / "hop", SETTINGS, say)
