"""How soon a second session with the same prompt has its first token: a real worker process on the model of 110 M parameters.

From the opening of its cache to its token, names of the blocks included. Every round has a prompt of its own, so that the first
session of each computes all of it; the second takes over all blocks but the last, which is computed again whole. A round whose
two tokens differ counts as no round at all: then the figure fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import trio

from inference.engine.reference import tensor_files
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from inference.model.config_json import parse_config
from inference.sessions.events import Order
from inference.sessions.prefix import block_names
from node.processes import torch_worker
from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import ModelDigest, SessionId
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.model import Sizes, model_folder

LLAMA_110M: Final = Sizes(768, 12, 2048, 12, 4, 64, 32000, 4096)
PROMPT: Final = 512
ROUNDS: Final = 7
THREADS: Final = 2
MEMORY_BYTES: Final = 2048 * limits.MIB
MODEL: Final = ModelDigest("ab" * 32)

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`prefix_reuse_ttft_ratio`"""
    say(f"prompts of {PROMPT}, each asked twice")
    took = trio.run(_ask_twice, model_folder("llama-110m", LLAMA_110M))
    ratios = [second_s / first_s for first_s, second_s in took]
    spread = {
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "first_ms": round(1000 * percentile([first_s for first_s, _ in took], 0.5), 1),
        "second_ms": round(1000 * percentile([second_s for _, second_s in took], 0.5), 1),
    }
    yield Figure("prefix_reuse_ttft_ratio", round(percentile(ratios, 0.5), 3), "ratio", len(ratios), spread)


async def _ask_twice(folder: Path) -> list[tuple[float, float]]:
    """Seconds of the first and of the second session of each round; the round that warms up is not kept."""
    worker = WorkerClient(torch_worker(WorkerSettings(THREADS, MEMORY_BYTES)), MEMORY_BYTES)
    config = (folder / "config.json").read_bytes()
    shard, random = ShardId(MODEL, parse_config(config).whole), Random(3)
    took: list[tuple[float, float]] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        spec = ShardSpec(shard, config, tensor_files(folder), "bf16", "exact")
        await worker.load(spec, lambda _done, _total: None)
        for number in range(ROUNDS + 1):
            prompt = tuple(random.randrange(LLAMA_110M.vocab_size) for _ in range(PROMPT))
            first_s, token = await _ask(worker, shard, SessionId(f"{2 * number:032x}"), prompt)
            second_s, again = await _ask(worker, shard, SessionId(f"{2 * number + 1:032x}"), prompt)
            if token != again:
                raise LocalFault(f"the same prompt drew {token}, and {again} the second time")
            took.append((first_s, second_s))
        nursery.cancel_scope.cancel()
    return took[1:]


async def _ask(
    worker: WorkerClient, shard: ShardId, session: SessionId, prompt: tuple[int, ...]
) -> tuple[float, int]:
    """How long it took to the first token, and that."""
    began_s = time.perf_counter()
    order = Order(session, MODEL, prompt, PROMPT + 8, Sampling())
    spec = CacheSpec(PROMPT, order.rows_max, order.sampling, prefix=block_names(order, ()))
    at, chunk = await worker.open_cache(shard, session, 0, spec), limits.PREFILL_CHUNK_ROWS
    token: int | None = None
    for start in range(at, PROMPT, chunk):
        header = Header(
            Kind.PREFILL, session, 0, 0, start, chunk, 0, start, Numerics.EXACT, DType.BF16, sample=start + chunk == PROMPT
        )  # fmt: skip
        token = (await worker.step(shard, Frame(header, prompt[start : start + chunk], b""))).token
    took_s = time.perf_counter() - began_s
    assert token is not None
    await worker.close_cache(shard, session, 0)
    return took_s, token
