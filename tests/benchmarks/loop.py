"""How long a daemon's loop keeps others waiting while its worker decodes: an echo within the loop, beside eight streams."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from inference.engine.engine import WIRE_NUMERICS
from inference.engine.reference import tensor_files
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from inference.model.config_json import parse_config
from node.processes import torch_worker
from protocols import limits
from protocols.ids import ModelDigest, SessionId
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind
from tests.benchmarks.figures import Figure, percentile

STREAMS: Final = 8
ECHOES: Final = 2000
PAUSE_S: Final = 0.005
MEMORY_BYTES: Final = 4096 * limits.MIB

Say = Callable[[str], None]


def measure_loop(folder: Path, say: Say) -> Figure:
    """`loop_p99_ms`: of the time that a byte takes there and back over a socketpair, both ends in one trio loop."""
    say(f"{ECHOES} echoes beside {STREAMS} streams")
    echoes_ms = trio.run(_echoes_beside_decoding, folder)
    spread = {"p50": round(percentile(echoes_ms, 0.5), 3), "max": round(max(echoes_ms), 3)}
    return Figure("loop_p99_ms", round(percentile(echoes_ms, 0.99), 3), "ms", len(echoes_ms), spread)


async def _echoes_beside_decoding(folder: Path) -> list[float]:
    worker = WorkerClient(torch_worker(WorkerSettings(1, MEMORY_BYTES)), MEMORY_BYTES)
    config = (folder / "config.json").read_bytes()
    shard = ShardId(ModelDigest("ab" * 32), parse_config(config).whole)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        spec = ShardSpec(shard, config, tensor_files(folder), "bf16", "exact")
        await worker.load(spec, lambda _done, _total: None)
        for number in range(STREAMS):
            nursery.start_soon(_decode, worker, shard, SessionId(f"{number:032x}"))
        echoes_ms = await _echoes()
        nursery.cancel_scope.cancel()
    return echoes_ms


async def _decode(worker: WorkerClient, shard: ShardId, session: SessionId) -> None:
    rows_max = 4000
    await worker.open_cache(shard, session, 0, CacheSpec(1, rows_max, Sampling()))
    token = 1
    for at in range(rows_max):
        header = Header(
            Kind.DECODE, session, 0, 0, at, 1, 0, at, WIRE_NUMERICS["exact"], DType.BF16, 0, sample=True
        )
        result = await worker.step(shard, Frame(header, (token,), b""))
        assert result.token is not None
        token = result.token


async def _echoes() -> list[float]:
    one, other = map(trio.socket.from_stdlib_socket, socket.socketpair())
    echoes_ms: list[float] = []

    async def answer() -> None:
        while data := await other.recv(1):
            await other.send(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await trio.sleep(5)  # until all streams decode
        for _ in range(ECHOES):
            began_s = time.perf_counter()
            await one.send(b".")
            await one.recv(1)
            echoes_ms.append((time.perf_counter() - began_s) * 1000)
            await trio.sleep(PAUSE_S)
        nursery.cancel_scope.cancel()
    one.close()
    other.close()
    return echoes_ms
