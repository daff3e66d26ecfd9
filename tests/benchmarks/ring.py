"""What dividing a model costs: decoding over two and over three daemons beside one daemon that holds all of it, turn by turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, Final

from node.demo.local_mesh import LocalMesh
from protocols.errors import UserError
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.model import LLAMA_100M, model_folder
from tests.benchmarks.request import Answer, Request, ask

NAMES: Final = ("one", "two", "three")
SETTINGS: Final = {"WEFT_WORKER_THREADS": "1", "WEFT_MODEL_DTYPE": "bf16", "WEFT_MODEL_NUMERICS": "exact"}
GOAL: Final = {"strategy": "balanced", "standby": "hot"}
OFFER_S: Final = 120.0
ROUNDS: Final = 15
TOKENS: Final = 48  # short turns, so that whatever else the machine does meets both alike
PROMPT_ROWS: Final = 16

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`ring2_ratio` and `ring3_ratio` from one run. Raises `WeftError` kinds if a mesh does not come up."""
    folder = model_folder("llama-100m", LLAMA_100M)
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as root, ExitStack() as meshes:

        def opened(name: str, size: int) -> LocalMesh:
            mesh = meshes.enter_context(LocalMesh(Path(root) / name, NAMES[:size], SETTINGS))
            mesh.start()
            offer_evenly(mesh, folder, say)
            return mesh

        rings = {"ring2_ratio": opened("two", 2), "ring3_ratio": opened("three", 3)}
        yield from measure_rings(rings, opened("alone", 1), folder.name, say)


def offer_evenly(mesh: LocalMesh, folder: Path, say: Say) -> None:
    """One range on every daemon. Raises `UserError` if one of several has no standby that is loaded."""
    with mesh.first.client() as client:
        params = {"path": str(folder), "goal": GOAL}
        plan: dict[str, Any] = client.call("offer", params, within_s=OFFER_S)["plan"]
    for planned in plan["ranges"]:
        say(f"layers {planned['range']} on {planned['holder_name']}, standby {planned['standby_name']}")
    if len(plan["ranges"]) != len(mesh.nodes) or (
        len(mesh.nodes) > 1 and any(planned["standby"] is None for planned in plan["ranges"])
    ):
        raise UserError(
            "the machine lacks memory for a range and a standby on every daemon: close something."
        )


def measure_rings(rings: Mapping[str, LocalMesh], alone: LocalMesh, model: str, say: Say) -> Iterator[Figure]:
    """A figure per ring, by name. All others are idle while one mesh decodes; one thread per worker, and in a ring one
    worker works at a time."""
    request = Request.drawn(Random(3), PROMPT_ROWS, LLAMA_100M.vocab_size, TOKENS, temperature=0)
    meshes = (alone, *rings.values())
    for mesh in meshes:
        _rate(mesh, model, request)  # the first run of a worker is slower
    turns = [[_rate(mesh, model, request) for mesh in meshes] for _ in range(ROUNDS)]
    one, *others = zip(*turns, strict=True)
    for name, rates in zip(rings, others, strict=True):
        told = ", ".join(f"{ours:.1f}/{theirs:.1f}" for ours, theirs in zip(rates, one, strict=True))
        say(f"{name}, tokens/s beside those of one: {told}")
        yield _figure(name, rates, one)


def _figure(name: str, rates: tuple[float, ...], one: tuple[float, ...]) -> Figure:
    ring_rate, one_rate = percentile(rates, 0.5), percentile(one, 0.5)
    ratios = [ours / theirs for ours, theirs in zip(rates, one, strict=True)]
    spread = {
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "ring_tokens_per_s": round(ring_rate, 1),
        "one_tokens_per_s": round(one_rate, 1),
    }
    return Figure(name, round(ring_rate / one_rate, 3), "ratio", ROUNDS, spread)


def _rate(mesh: LocalMesh, model: str, request: Request) -> float:
    answer = Answer()
    ask(mesh.first, model, request, answer)
    return answer.tokens_per_s
