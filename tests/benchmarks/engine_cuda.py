"""The engine on a card: tokens per second of one stream and of many, and how soon a prompt has its first token.

Random weights of 1.1 B parameters in bf16, one process, nothing beside it. Where torch finds no card it says so and yields no figure:
what was not measured is no result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Final

import torch

from inference.engine.device import cuda_lack, find_device
from tests.benchmarks.engine_mesh import LLAMA_1100M
from tests.benchmarks.figures import Figure, figure_of
from tests.benchmarks.model import model_folder
from tests.benchmarks.weft_runner import WeftRunner

ROUNDS: Final = 7
TOKENS: Final = 64
CONTEXT: Final = 64
PROMPT: Final = 512
STREAMS: Final = (1, 16, 64)
FIGURES: Final = (
    *(f"cuda_decode_bf16_{streams}" for streams in STREAMS),
    "cuda_prefill_bf16",
    "cuda_decode_recorded_vs_plain",
)

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`cuda_decode_bf16_1`, `_16` and `_64`, and `cuda_prefill_bf16`, all in tokens per second; and
    `cuda_decode_recorded_vs_plain`, for one stream."""
    if lack := cuda_lack():
        say(f"not measured, for {lack}: {', '.join(FIGURES)}")
        return
    folder = model_folder("llama-1100m", LLAMA_1100M)
    card, threads = find_device("cuda"), torch.get_num_threads()
    runner = WeftRunner(str(folder), "bf16", threads, card)
    random = Random(7)

    def words(count: int) -> list[int]:
        return [random.randrange(1, LLAMA_1100M.vocab_size) for _ in range(count)]

    for streams in STREAMS:
        say(f"{streams} streams")
        runner.open([words(CONTEXT) for _ in range(streams)], CONTEXT + (ROUNDS + 1) * TOKENS + 1)
        rates = [streams * TOKENS / _took_s(lambda: runner.decode(TOKENS)) for _ in range(ROUNDS + 1)]
        runner.close()
        yield figure_of(f"cuda_decode_bf16_{streams}", rates[1:], 0.5, "tokens/s", 1)
    say(f"prompts of {PROMPT}")
    rates = [PROMPT / _took_s(lambda: runner.prefill(words(PROMPT))) for _ in range(ROUNDS + 1)]
    yield figure_of("cuda_prefill_bf16", rates[1:], 0.5, "tokens/s", 1)
    say("one stream with recorded steps and without, turn by turn")
    plain, context = WeftRunner(str(folder), "bf16", threads, replace(card, records=False)), words(CONTEXT)
    for each in (runner, plain):
        each.open([context], CONTEXT + (ROUNDS + 1) * TOKENS + 1)
    ratios = []
    for _ in range(ROUNDS + 1):
        recorded_s = _took_s(lambda: runner.decode(TOKENS))
        ratios.append(_took_s(lambda: plain.decode(TOKENS)) / recorded_s)
    yield figure_of("cuda_decode_recorded_vs_plain", ratios[1:], 0.5, "ratio")


def _took_s(work: Callable[[], None]) -> float:
    """Every step ends with its token here, so that nothing is left under way on the card."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
