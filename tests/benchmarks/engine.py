"""The engine on one machine, beside transformers and llama.cpp: decoding, prompts, batches, long contexts, loading.

All contenders are loaded at once and asked in turn, and a figure is the median over the turns of ours ÷ theirs in that turn.
The two models are random Llamas of 110 M and 1.1 B parameters; two threads for everybody. llama.cpp is an optional extra
(`pip install weft[bench]`): without it its figures are left out, and said to be.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.benchmarks import (
    engine_cuda,
    engine_kv8,
    engine_memory,
    engine_mesh,
    engine_parallel,
    engine_prefix,
)
from tests.benchmarks.contender import Contender, Took
from tests.benchmarks.engine_mesh import LLAMA_1100M
from tests.benchmarks.engine_prefix import LLAMA_110M
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.model import Sizes, model_folder

THREADS: Final = 2
ROUNDS: Final = 7
TOKENS: Final = 12  # short turns, so that whatever else the machine does meets all alike
CONTEXT: Final = 64
LONG_CONTEXT: Final = 2000
PROMPT: Final = 512
STREAMS: Final = 16
ROWS_MAX: Final = CONTEXT + (ROUNDS + 1) * TOKENS + 1

Say = Callable[[str], None]


class Table:
    """Contenders that are loaded, by name."""

    def __init__(self, folder: Path, sizes: Sizes, stack: ExitStack, say: Say) -> None:
        self._folder = folder
        self._sizes = sizes
        self._stack = stack
        self._say = say

    def seat(self, kind: str, dtype: str) -> Contender:
        self._say(f"{kind} {dtype} loads {self._folder.name}")
        contender = Contender(kind, self._folder, dtype, THREADS, self._sizes.vocab_size)
        return self._stack.enter_context(contender)


def has_llamacpp() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


def measure(say: Say) -> Iterator[Figure]:
    """Every figure, smaller models first. Raises `LocalFault` if a contender fails."""
    for part in PARTS.values():
        yield from part(say)


def measure_small(say: Say) -> Iterator[Figure]:
    """`decode_bf16_110m_vs_llamacpp`"""
    if not has_llamacpp():
        say("not measured without llama-cpp-python: decode_bf16_110m_vs_llamacpp")
        return
    with ExitStack() as stack:
        table = Table(model_folder("llama-110m", LLAMA_110M), LLAMA_110M, stack, say)
        weft, llamacpp = table.seat("weft", "bf16"), table.seat("llama.cpp", "bf16")
        decoded = decode_in_turn([weft, llamacpp], 1, CONTEXT)
        yield ratio("decode_bf16_110m_vs_llamacpp", rates(decoded[0]), rates(decoded[1]))


def measure_large(say: Say) -> Iterator[Figure]:
    """Decoding, prompts and batches of the 1.1 B model, and what loading it takes."""
    with ExitStack() as stack:
        table = Table(model_folder("llama-1100m", LLAMA_1100M), LLAMA_1100M, stack, say)
        weft, int8 = table.seat("weft", "bf16"), table.seat("weft", "int8")
        transformers = table.seat("transformers", "bf16")
        peaks = [each.peak_bytes / each.resident_bytes for each in (weft, int8)]
        yield Figure("load_peak_ratio", round(max(peaks), 3), "ratio", 2)
        llamas = [table.seat("llama.cpp", dtype) for dtype in ("bf16", "q8") if has_llamacpp()]
        if not llamas:
            say("not measured without llama-cpp-python: every figure against llama.cpp")
        yield from _decoding(weft, int8, transformers, llamas, say)
        if llamas:
            say(f"prompts of {PROMPT}")
            ours, theirs = in_turn([int8, llamas[1]], lambda each: each.prefill(PROMPT))
            yield ratio("prefill_int8_vs_llamacpp_q8", rates(ours), rates(theirs))
        yield from _batches(weft, int8, llamas, say)


def _decoding(
    weft: Contender, int8: Contender, transformers: Contender, llamas: Sequence[Contender], say: Say
) -> Iterator[Figure]:
    say("one stream")
    ours, ours8, hf, *llama = decode_in_turn([weft, int8, transformers, *llamas], 1, CONTEXT)
    yield ratio("decode_bf16_vs_transformers", rates(ours), rates(hf))
    yield ratio("decode_int8_vs_transformers", rates(ours8), rates(hf))
    cpu = [each.cpu_s for each in ours], [each.cpu_s for each in hf]
    yield ratio("cpu_s_per_token_vs_transformers", *cpu)
    if llama:
        yield ratio("decode_bf16_vs_llamacpp", rates(ours), rates(llama[0]))
        yield ratio("decode_int8_vs_llamacpp_q8", rates(ours8), rates(llama[1]))


def _batches(weft: Contender, int8: Contender, llamas: Sequence[Contender], say: Say) -> Iterator[Figure]:
    if llamas:
        say(f"{STREAMS} streams")
        ours, theirs = decode_in_turn([int8, llamas[1]], STREAMS, CONTEXT)
        yield ratio("batch16_int8_vs_llamacpp_q8", rates(ours), rates(theirs))
    say("one stream and many, turn by turn")
    singles: list[Took] = []
    batches: list[Took] = []
    for _ in range(ROUNDS):
        for streams, taken in ((1, singles), (STREAMS, batches)):
            weft.open(streams, CONTEXT, ROWS_MAX)
            taken.append(weft.decode(TOKENS))
            weft.close()
    yield ratio("batch16_vs_1_bf16", [rate * STREAMS for rate in rates(batches)], rates(singles))


def measure_context(say: Say) -> Iterator[Figure]:
    """`context2000_vs_64`: the same engine twice, so that the two take turns."""
    with ExitStack() as stack:
        table = Table(model_folder("llama-1100m", LLAMA_1100M), LLAMA_1100M, stack, say)
        near, far = table.seat("weft", "bf16"), table.seat("weft", "bf16")
        say(f"contexts of {LONG_CONTEXT} and {CONTEXT}")
        near.open(1, CONTEXT, ROWS_MAX)
        far.open(1, LONG_CONTEXT, LONG_CONTEXT + ROWS_MAX)
        near_took, far_took = in_turn([near, far], lambda each: each.decode(TOKENS))
        yield ratio("context2000_vs_64", rates(far_took), rates(near_took))


PARTS: Final[dict[str, Callable[[Say], Iterator[Figure]]]] = {
    "small": measure_small,
    "large": measure_large,
    "context": measure_context,
    "mesh": engine_mesh.measure,
    "memory": engine_memory.measure,
    "prefix": engine_prefix.measure,
    "kv8": engine_kv8.measure,
    "cuda": engine_cuda.measure,
    "parallel": engine_parallel.measure,
}


def decode_in_turn(contenders: Sequence[Contender], streams: int, context: int) -> list[list[Took]]:
    """What each took for its turns, with sequences of their own that end afterwards."""
    for each in contenders:
        each.open(streams, context, ROWS_MAX)
    took = in_turn(contenders, lambda each: each.decode(TOKENS))
    for each in contenders:
        each.close()
    return took


def in_turn(contenders: Sequence[Contender], order: Callable[[Contender], Took]) -> list[list[Took]]:
    """One list per contender; the first turn warms up and is not kept."""
    turns = [[order(each) for each in contenders] for _ in range(ROUNDS + 1)][1:]
    return [list(each) for each in zip(*turns, strict=True)]


def rates(took: Sequence[Took]) -> list[float]:
    """Orders of the same size per second."""
    return [1 / each.wall_s for each in took]


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """The median of the turns' quotients, with the least and the greatest."""
    quotients = [one / other for one, other in zip(ours, theirs, strict=True)]
    spread = {"min": round(min(quotients), 3), "max": round(max(quotients), 3)}
    return Figure(name, round(percentile(quotients, 0.5), 3), "ratio", len(quotients), spread)
