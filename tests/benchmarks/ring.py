"""What dividing a model costs: decoding over three daemons beside one daemon that holds all of it, turn by turn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from node.demo.local_mesh import LocalMesh
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.model import LLAMA_100M
from tests.benchmarks.request import Answer, Request, ask

ROUNDS: Final = 15
TOKENS: Final = 48  # short turns, so that whatever else the machine does meets both alike
PROMPT_ROWS: Final = 16

Say = Callable[[str], None]


def measure_ring(ring: LocalMesh, alone: LocalMesh, model: str, say: Say) -> Figure:
    """Each mesh is idle while the other decodes; one thread per worker, and in a ring one worker works at a time."""
    request = Request.drawn(Random(3), PROMPT_ROWS, LLAMA_100M.vocab_size, TOKENS, temperature=0)
    _rate(ring, model, request), _rate(alone, model, request)  # the first run of a worker is slower
    rates = [(_rate(ring, model, request), _rate(alone, model, request)) for _ in range(ROUNDS)]
    ring_rate = percentile([each[0] for each in rates], 0.5)
    alone_rate = percentile([each[1] for each in rates], 0.5)
    say(
        "decoding, ring beside one: "
        + ", ".join(f"{ours:.1f}/{theirs:.1f}" for ours, theirs in rates)
        + " tokens/s"
    )
    ratios = [ours / theirs for ours, theirs in rates]
    spread = {
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "ring_tokens_per_s": round(ring_rate, 1),
        "one_tokens_per_s": round(alone_rate, 1),
    }
    return Figure("ring3_ratio", round(ring_rate / alone_rate, 3), "ratio", ROUNDS, spread)


def _rate(mesh: LocalMesh, model: str, request: Request) -> float:
    answer = Answer()
    ask(mesh.first, model, request, answer)
    return answer.tokens_per_s
