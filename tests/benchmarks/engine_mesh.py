"""The engine behind daemons: many streams over three of them, what a second stage adds, and how quiet the loop stays."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Final

from node.demo.local_mesh import LocalMesh
from tests.benchmarks.contender import Contender
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.loop import measure_loop
from tests.benchmarks.model import Sizes, model_folder
from tests.benchmarks.request import Answer, Request, ask

LLAMA_1100M: Final = Sizes(2048, 22, 5632, 32, 4, 64, 32000, 4096)
ROUNDS: Final = 5
TOKENS: Final = 24
PROMPT_ROWS: Final = 64
OFFER_S: Final = 300.0
GOAL: Final = {"strategy": "balanced", "standby": "none"}

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """Raises `WeftError` kinds if a mesh does not come up."""
    folder = model_folder("llama-1100m", LLAMA_1100M)
    yield from _mesh3(folder, say)
    yield from _stages2(folder, say)
    yield measure_loop(folder, say)


def _mesh3(folder: Path, say: Say) -> Iterator[Figure]:
    """Eight streams over three daemons, one torch thread each, beside transformers with two threads, one by one."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as root, ExitStack() as stack:
        mesh = _opened(stack, Path(root) / "three", 3, folder, say)
        theirs = stack.enter_context(Contender("transformers", folder, "bf16", 2, LLAMA_1100M.vocab_size))
        theirs.open(1, PROMPT_ROWS, PROMPT_ROWS + (ROUNDS + 1) * TOKENS)
        _together(mesh, folder.name, 8)
        theirs.decode(2)
        turns = []
        for _ in range(ROUNDS):
            ours = _together(mesh, folder.name, 8)
            turns.append((ours, TOKENS / theirs.decode(TOKENS).wall_s))
        say(f"tokens/s beside those of transformers: {_told(turns)}")
        yield _figure("mesh3_8streams_vs_transformers", turns)


def _stages2(folder: Path, say: Say) -> Iterator[Figure]:
    """Sixteen streams over two stages beside one process that holds all layers, every worker with one thread."""
    with tempfile.TemporaryDirectory(prefix="weft-bench-") as root, ExitStack() as stack:
        two = _opened(stack, Path(root) / "two", 2, folder, say)
        one = _opened(stack, Path(root) / "one", 1, folder, say)
        for mesh in (two, one):
            _together(mesh, folder.name, 16)
        turns = [tuple(_together(mesh, folder.name, 16) for mesh in (two, one)) for _ in range(ROUNDS)]
        say(f"tokens/s beside those of one: {_told(turns)}")
        yield _figure("stages2_16streams_vs_1process", turns)


def _opened(stack: ExitStack, home: Path, size: int, folder: Path, say: Say) -> LocalMesh:
    settings = {"WEFT_WORKER_THREADS": "1", "WEFT_MODEL_DTYPE": "bf16", "WEFT_MODEL_NUMERICS": "exact"}
    names = ("one", "two", "three")[:size]
    mesh = stack.enter_context(LocalMesh(home, names, settings))
    mesh.start()
    with mesh.first.client() as client:
        plan = client.call("offer", {"path": str(folder), "goal": GOAL}, within_s=OFFER_S)["plan"]
    for planned in plan["ranges"]:
        say(f"layers {planned['range']} on {planned['holder_name']}")
    return mesh


def _together(mesh: LocalMesh, model: str, streams: int) -> float:
    """Tokens per second of all streams, from the moment when the last has its first token to the end of the first."""
    rng = Random(3)
    requests = [
        Request.drawn(rng, PROMPT_ROWS, LLAMA_1100M.vocab_size, TOKENS, temperature=0) for _ in range(streams)
    ]
    answers = [Answer() for _ in requests]
    began_s = time.monotonic()
    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(lambda pair: ask(mesh.first, model, *pair), zip(requests, answers, strict=True)))
    from_s, to_s = max(each.times_s[0] for each in answers), min(each.times_s[-1] for each in answers)
    if to_s <= from_s:  # the streams never ran together
        return sum(len(each.tokens) for each in answers) / (time.monotonic() - began_s)
    seen = sum(sum(from_s < at_s <= to_s for at_s in each.times_s) for each in answers)
    return seen / (to_s - from_s)


def _told(turns: list[tuple[float, ...]]) -> str:
    return ", ".join(f"{ours:.1f}/{theirs:.1f}" for ours, theirs in turns)


def _figure(name: str, turns: list[tuple[float, ...]]) -> Figure:
    quotients = [ours / theirs for ours, theirs in turns]
    spread = {
        "min": round(min(quotients), 3),
        "max": round(max(quotients), 3),
        "tokens_per_s": round(percentile([ours for ours, _ in turns], 0.5), 1),
    }
    return Figure(name, round(percentile(quotients, 0.5), 3), "ratio", len(turns), spread)
