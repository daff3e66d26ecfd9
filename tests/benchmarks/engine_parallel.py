"""How much sooner two processes with a slice of every layer each decode than one process with all of it: real workers on the model of
110 M parameters, one thread per process, in turn. Below 1 the sums between them cost more than what they save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from inference.engine.reference import tensor_files
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from inference.model.config_json import parse_config
from node.processes import torch_worker
from protocols import limits
from protocols.ids import ModelDigest, SessionId
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.benchmarks.engine_prefix import LLAMA_110M
from tests.benchmarks.figures import Figure, percentile
from tests.benchmarks.model import model_folder

ROUNDS: Final = 9
TOKENS: Final = 12
PROMPT: Final = 64
MEMORY_BYTES: Final = 2048 * limits.MIB
SESSION: Final = SessionId("0" * 32)

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """`tensor_parallel2_vs_1`"""
    say("one process and two, turn by turn")
    turns = trio.run(_decode_in_turn, model_folder("llama-110m", LLAMA_110M))
    ratios = [alone_s / two_s for alone_s, two_s in turns]
    spread = {
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "one_ms": round(1000 * percentile([alone_s for alone_s, _ in turns], 0.5) / TOKENS, 2),
        "two_ms": round(1000 * percentile([two_s for _, two_s in turns], 0.5) / TOKENS, 2),
    }
    yield Figure("tensor_parallel2_vs_1", round(percentile(ratios, 0.5), 3), "ratio", len(ratios), spread)


async def _decode_in_turn(folder: Path) -> list[tuple[float, float]]:
    """Seconds of the one process and of the two in each round; the round that warms up is not kept."""
    config = (folder / "config.json").read_bytes()
    shard = ShardId(ModelDigest("ab" * 32), parse_config(config).whole)
    spec = ShardSpec(shard, config, tensor_files(folder), "bf16", "exact")
    turns: list[tuple[float, float]] = []
    async with trio.open_nursery() as nursery:
        streams = []
        for ranks in (1, 2):
            worker = WorkerClient(
                torch_worker(WorkerSettings(ranks, MEMORY_BYTES, ranks=ranks)), MEMORY_BYTES
            )
            await nursery.start(worker.run)
            await worker.load(spec, lambda _done, _total: None)
            rows_max = PROMPT + (ROUNDS + 1) * TOKENS + 1
            await worker.open_cache(shard, SESSION, 0, CacheSpec(PROMPT, rows_max, Sampling()))
            streams.append(_Stream(worker, shard))
            await streams[-1].step(tuple(range(1, PROMPT + 1)))
        for _ in range(ROUNDS + 1):
            alone_s, two_s = [await each.decode() for each in streams]
            turns.append((alone_s, two_s))
        nursery.cancel_scope.cancel()
    return turns[1:]


@dataclass(slots=True)
class _Stream:
    worker: WorkerClient
    shard: ShardId
    rows: int = 0
    token: int = 0

    async def step(self, tokens: tuple[int, ...]) -> None:
        header = Header(
            Kind.PREFILL, SESSION, 0, 0, self.rows, len(tokens), 0, self.rows, Numerics.EXACT, DType.BF16, sample=True
        )  # fmt: skip
        self.rows += len(tokens)
        self.token = (await self.worker.step(self.shard, Frame(header, tokens, b""))).token or 0

    async def decode(self) -> float:
        began_s = time.perf_counter()
        for _ in range(TOKENS):
            await self.step((self.token,))
        return time.perf_counter() - began_s
