"""What caches in 8 bit take, and what they cost: the model of 110 M parameters in bf16, two engines of one process that decode in turns.

Both have the same context, prompt chunk by prompt chunk, and then decode the same tokens. Processor time on one thread, so that what
else the machine does counts little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import torch

from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.reference import tensor_files
from inference.model.config_json import parse_config
from inference.model.precision import KV_KINDS
from protocols import limits
from protocols.ids import SessionId
from protocols.seams import CacheSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.benchmarks.engine_prefix import LLAMA_110M
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.model import model_folder

CONTEXT: Final = 2000
TOKENS: Final = 8
ROUNDS: Final = 9
MEMORY_BYTES: Final = 1024 * limits.MIB
KEY: Final = (SessionId("0" * 32), 0)

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`kv8_bytes_ratio` and `kv8_decode_cpu_ratio`, both of 8 bit against 16"""
    say(f"a context of {CONTEXT}, in 16 bit and in 8")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _figures(model_folder("llama-110m", LLAMA_110M))
    finally:
        torch.set_num_threads(threads)


def _figures(folder: Path) -> Iterator[Figure]:
    config = parse_config((folder / "config.json").read_bytes())
    random = Random(3)
    tokens = [random.randrange(config.vocabulary) for _ in range(CONTEXT + (ROUNDS + 1) * TOKENS)]
    engines, sizes = [], []
    for kv in KV_KINDS:
        budget = KvBudget(MEMORY_BYTES, kv=kv)
        engine = ShardEngine(config, config.whole, "bf16", "exact", tensor_files(folder), budget)
        sizes.append(engine.open_cache(KEY, CacheSpec(CONTEXT, len(tokens), Sampling())))
        for start in range(0, CONTEXT, limits.PREFILL_CHUNK_ROWS):
            _step(engine, start, tokens[start : min(start + limits.PREFILL_CHUNK_ROWS, CONTEXT)])
        engines.append(engine)
    yield Figure("kv8_bytes_ratio", round(sizes[1] / sizes[0], 4), "ratio", 1)
    took: list[tuple[float, float]] = []
    for begin in range(CONTEXT, len(tokens), TOKENS):
        plain_s, rounded_s = (_decode_s(engine, begin, tokens[begin : begin + TOKENS]) for engine in engines)
        took.append((plain_s, rounded_s))
    ratios = [rounded_s / plain_s for plain_s, rounded_s in took[1:]]  # the first warms up
    spread = {
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "bf16_ms": round(1000 * percentile([plain_s for plain_s, _ in took[1:]], 0.5) / TOKENS, 2),
        "kv8_ms": round(1000 * percentile([rounded_s for _, rounded_s in took[1:]], 0.5) / TOKENS, 2),
    }
    yield Figure("kv8_decode_cpu_ratio", round(percentile(ratios, 0.5), 3), "ratio", len(ratios), spread)


def _decode_s(engine: ShardEngine, position: int, tokens: list[int]) -> float:
    began_s = time.thread_time()
    for at, token in enumerate(tokens, position):
        _step(engine, at, [token])
    return time.thread_time() - began_s


def _step(engine: ShardEngine, position: int, tokens: list[int]) -> None:
    kind = Kind.DECODE if len(tokens) == 1 else Kind.PREFILL
    header = Header(
        kind, KEY[0], 0, 0, position, len(tokens), 0, position, Numerics.EXACT, DType.BF16, sample=True
    )
    engine.step(KEY, Frame(header, tuple(tokens), b""))
