"""The real engine in a simulated worker: torch computes inside this process, and the clock passes as the model of costs says.

Importing this takes no torch; the first process of such a worker does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from inference.engine.worker.server import Engines
from inference.engine.worker.settings import WorkerSettings
from inference.model.tiny import MODEL_DIR
from protocols.session import Sampling

THREADS: Final = 1  # a sum cut into other pieces may round otherwise


def torch_engines(room: Callable[[], int]) -> Engines:
    """What the torch process of a node has, within the memory that is free now."""
    from inference.engine.worker.torch_engines import TorchEngines

    return TorchEngines(WorkerSettings(THREADS, room()), trio.current_time)


def whole_answer(
    prompt: tuple[int, ...], tokens: int, sampling: Sampling, stop_ids: frozenset[int]
) -> tuple[int, ...]:
    """What weft-tiny answers in one piece, a stop id at its end included."""
    from inference.engine.reference import Question, answer

    torch_engines(lambda: 0)  # so that torch has the threads that it has in a worker
    question = Question(
        str(MODEL_DIR), prompt, tokens, temperature=sampling.temperature, top_k=sampling.top_k,
        top_p=sampling.top_p, seed=sampling.seed, stop_ids=tuple(sorted(stop_ids)), threads=THREADS,
    )  # fmt: skip
    return answer(question).token_ids
