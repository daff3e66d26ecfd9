"""Whether memory stays what it is: a real worker process on a small model, decoded for 10,000 steps by four sessions at a time.

Rows are written again and again within the same stretch, so that keys and values take their pages in the warm-up and none after.
What grows then is what the step path leaves behind. The worker's and this process's private memory are read from /proc.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import trio

from inference.engine.reference import tensor_files
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from inference.model.config_json import parse_config
from node.machine import read_footprint, read_memory
from node.processes import torch_worker
from protocols import limits
from protocols.ids import ModelDigest, SessionId
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.benchmarks.figures import Figure
from tests.benchmarks.model import Sizes, model_folder

SIZES: Final = Sizes(256, 2, 512, 4, 2, 64, 4096, 4096)
STREAMS: Final = 4
STRETCH_ROWS: Final = 256
WARM_STEPS: Final = 1024
STEPS: Final = 10_000
MEMORY_BYTES: Final = 1024 * limits.MIB
LOOKS: Final = 200

Say = Callable[[str], None]


def measure(say: Say) -> Iterator[Figure]:
    """What grew over the steps, what is left of sessions that have ended, and what a look at the memory costs."""
    say(f"{STEPS} steps of {STREAMS} sessions")
    before, warm, after, closed = trio.run(_decode_on, model_folder("steady", SIZES))
    yield _figure("steady_worker_growth_kib", after[0] - warm[0], {"private": after[0] // 1024})
    yield _figure("steady_daemon_growth_kib", after[1] - warm[1], {"private": after[1] // 1024})
    yield _figure("ended_sessions_left_kib", closed[0] - before[0])
    began_s = time.process_time()
    for _ in range(LOOKS):
        read_memory()
        read_footprint(os.getpid())
    look_us = (time.process_time() - began_s) / LOOKS * 1e6
    yield Figure("memory_look_cpu_us", round(look_us, 1), "us", LOOKS)


def _figure(name: str, grown_bytes: int, spread: dict[str, float] | None = None) -> Figure:
    return Figure(name, round(grown_bytes / 1024, 1), "KiB", STEPS, spread or {})


def _private_bytes(pid: int | None) -> tuple[int, int]:
    """Of the worker and of this process."""
    assert pid is not None
    return read_footprint(pid).private_bytes, read_footprint(os.getpid()).private_bytes


async def _decode_on(folder: Path) -> list[tuple[int, int]]:
    """Private bytes before the sessions open, when they are warm, when they have decoded, and when they have ended."""
    worker = WorkerClient(torch_worker(WorkerSettings(1, MEMORY_BYTES)), MEMORY_BYTES)
    config = (folder / "config.json").read_bytes()
    shard = ShardId(ModelDigest("ab" * 32), parse_config(config).whole)
    sessions = [SessionId(f"{number:032x}") for number in range(STREAMS)]
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await worker.load(ShardSpec(shard, config, tensor_files(folder), "bf16", "exact"), _unseen)
        await _with_sessions(
            worker, shard, sessions, WARM_STEPS
        )  # the first session ever costs torch some buffers
        found = [_private_bytes(worker.pid)]
        await _open(worker, shard, sessions)
        for steps in (WARM_STEPS, STEPS):
            await _all_decode(worker, shard, sessions, steps // STREAMS)
            found.append(_private_bytes(worker.pid))
        for session in sessions:
            await worker.close_cache(shard, session, 0)
        found.append(_private_bytes(worker.pid))
        nursery.cancel_scope.cancel()
    return found


async def _with_sessions(worker: WorkerClient, shard: ShardId, sessions: list[SessionId], steps: int) -> None:
    await _open(worker, shard, sessions)
    await _all_decode(worker, shard, sessions, steps // STREAMS)
    for session in sessions:
        await worker.close_cache(shard, session, 0)


async def _open(worker: WorkerClient, shard: ShardId, sessions: list[SessionId]) -> None:
    for session in sessions:
        await worker.open_cache(shard, session, 0, CacheSpec(1, STRETCH_ROWS, Sampling()))


async def _all_decode(worker: WorkerClient, shard: ShardId, sessions: list[SessionId], steps: int) -> None:
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(_decode, worker, shard, session, steps)


async def _decode(worker: WorkerClient, shard: ShardId, session: SessionId, steps: int) -> None:
    token = 1
    for step in range(steps):
        at = step % STRETCH_ROWS
        header = Header(Kind.DECODE, session, 0, 0, at, 1, 0, at, Numerics.EXACT, DType.BF16, sample=True)
        result = await worker.step(shard, Frame(header, (token,), b""))
        assert result.token is not None
        token = result.token


def _unseen(_done: int, _total: int) -> None:
    """Nobody waits for the progress."""
