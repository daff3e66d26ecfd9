"""What a node has in memory of a model that three share, beside the whole model: its own third, with standbys that are only mapped.

Private memory of the daemon and its worker, as the kernel counts it: pages of mapped files are the page cache's, and not counted.
An empty node is one that has held a small model with layers of the same shape and has let it go: so the kernels that torch compiles
for those shapes, once for one layer or for a hundred, are no weights. `above_tiny` is the same with the tiny model for the small one,
which leaves them in. The bytes of the model are those of its file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from node.demo.local_mesh import LocalMesh, LocalNode, wait_until
from protocols.errors import UserError
from tests.benchmarks.figures import Figure
from tests.benchmarks.model import LLAMA_100M, model_folder
from tests.benchmarks.ring import NAMES, OFFER_S, SETTINGS

TINY: Final = "weft-tiny"
SMALL: Final = replace(LLAMA_100M, num_hidden_layers=len(NAMES))  # one layer for each
GOAL: Final = {"strategy": "balanced", "standby": "mapped"}
SETTLE_S: Final = 5.0
RELEASE_S: Final = 60.0
MIB: Final = 1 << 20

Say = Callable[[str], None]


def measure_weights(say: Say) -> Figure:
    """`weight_bytes_ratio`. Raises `WeftError` kinds if the mesh does not come up, or does not share the model evenly."""
    folder = model_folder("llama-100m", LLAMA_100M)
    model_bytes = (folder / "model.safetensors").stat().st_size
    with (
        tempfile.TemporaryDirectory(prefix="weft-bench-") as root,
        LocalMesh(Path(root), NAMES, SETTINGS) as mesh,
    ):
        mesh.start()
        tiny = _emptied(mesh, TINY, TINY)
        small = model_folder("llama-100m-small", SMALL)
        empty = _emptied(mesh, str(small), small.name)
        plan = _offer(mesh, str(folder))
        for planned in plan["ranges"]:
            say(f"layers {planned['range']} on {planned['holder_name']}, standby {planned['standby_name']}")
        if len(plan["ranges"]) != len(NAMES) or any(planned["standby"] is None for planned in plan["ranges"]):
            raise UserError(
                "the machine lacks memory for a range and a standby on every daemon: close something."
            )
        loaded = _settled(mesh)
    grown = {name: loaded[name] - empty[name] for name in NAMES}
    for name in NAMES:
        say(
            f"{name}: {tiny[name] / MIB:.1f} MiB after the tiny model, {empty[name] / MIB:.1f} after a small one, "
            f"{grown[name] / MIB:.1f} more with its range"
        )
    return Figure(
        "weight_bytes_ratio",
        round(max(grown.values()) / model_bytes, 3),
        "ratio",
        1,
        {
            "least": round(min(grown.values()) / model_bytes, 3),
            "sum": round(sum(grown.values()) / model_bytes, 3),
            "above_tiny": round(max(loaded[name] - tiny[name] for name in NAMES) / model_bytes, 3),
            "model_bytes": model_bytes,
        },
    )


def _emptied(mesh: LocalMesh, path: str, name: str) -> dict[str, int]:
    """Private bytes by name after all have held a part of that model and let it go."""
    _offer(mesh, path)
    mesh.first.call("withdraw", model=name)
    wait_until(lambda: not _held(mesh), RELEASE_S, f"{name} is still held")
    return _settled(mesh)


def _offer(mesh: LocalMesh, path: str) -> dict[str, Any]:
    with mesh.first.client() as client:
        plan: dict[str, Any] = client.call("offer", {"path": path, "goal": GOAL}, within_s=OFFER_S)["plan"]
    return plan


def _held(mesh: LocalMesh) -> bool:
    return any(model["ranges"] for node in mesh.nodes.values() for model in node.call("models")["models"])


def _settled(mesh: LocalMesh) -> dict[str, int]:
    """Private bytes by name, once the nodes have had time to let go of what they no longer need."""
    time.sleep(SETTLE_S)
    return {name: private_bytes(node) for name, node in mesh.nodes.items()}


def private_bytes(node: LocalNode) -> int:
    """Of the daemon and all its children."""
    return sum(_private_bytes(pid) for pid in (node.pid, *_children(node.pid)))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    counted = ("Private_Clean:", "Private_Dirty:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(counted))
