"""Decoding on and on leaves nothing behind: no object of Python's, no tensor, and the same buffers all the time."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence

import pytest
import torch

from inference.engine.batching.waiting import Body
from inference.engine.device import HOST, Device
from inference.engine.worker.server import Server
from inference.engine.worker.settings import WorkerSettings
from inference.engine.worker.torch_engines import TorchEngines
from inference.engine.worker.wire import CloseCache, LoadShard, OpenCache, Reply, Step, Stepped
from inference.model.config_json import parse_config
from protocols import limits
from protocols.ids import ModelDigest, SessionId
from protocols.seams import CacheSpec, ShardId, ShardSpec, TensorFile
from protocols.session import Sampling
from protocols.tensor import DType, Header, Kind, Numerics
from tests.inference.model.folders import tiny_tensors, write_tiny_folder

SESSIONS = tuple(SessionId(f"{number:032x}") for number in range(3))
ROWS = 32


class Deaf:
    """Keeps the last replies, and nothing of them before."""

    def __init__(self) -> None:
        self.last: Sequence[tuple[int, Reply, Body]] = ()

    def send(self, replies: Sequence[tuple[int, Reply, Body]]) -> None:
        self.last = replies

    def pull(self) -> None:
        pass


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> ShardSpec:
    folder = write_tiny_folder(tmp_path_factory.mktemp("model"))
    files = tuple(TensorFile(name, str(folder / "model.safetensors"), name) for name in tiny_tensors())
    config = (folder / "config.json").read_bytes()
    shard = ShardId(ModelDigest("ab" * 32), parse_config(config).whole)
    return ShardSpec(shard, config, files, "f32", "exact")


PAGED = Device(torch.device("cpu"))


@pytest.fixture(
    params=[(HOST, "model"), (PAGED, "model"), (HOST, "int8"), (PAGED, "int8")],
    ids=["processor", "accelerator", "processor in 8 bit", "accelerator in 8 bit"],
)
def server(specs: ShardSpec, request: pytest.FixtureRequest) -> Iterator[tuple[Server, Deaf]]:
    daemon = Deaf()
    device, kv = request.param
    engines = TorchEngines(WorkerSettings(1, 64 * limits.MIB, kv=kv), time.perf_counter, device)
    server = Server(daemon, engines, time.monotonic)
    server.take(0, LoadShard(specs), bytearray())
    for session in SESSIONS:
        server.take(0, OpenCache(specs.shard, session, 0, CacheSpec(1, ROWS, Sampling())), bytearray())
    yield server, daemon
    for session in SESSIONS:
        server.take(0, CloseCache(specs.shard, session, 0), bytearray())


def decode(server: Server, shard: ShardId, steps: int) -> None:
    for step in range(steps):
        for call, session in enumerate(SESSIONS):
            at = step % ROWS
            header = Header(Kind.DECODE, session, 0, 0, at, 1, 0, at, Numerics.EXACT, DType.F32, sample=True)
            server.take(call, Step(shard, header, (5,)), bytearray())
        while not server.is_idle:
            server.compute()


def counted() -> tuple[int, int]:
    """Objects, and of them tensors."""
    gc.collect()
    found = gc.get_objects()
    return len(found), sum(issubclass(type(each), torch.Tensor) for each in found)


def test_a_hundred_steps_more_leave_no_object_and_no_tensor(
    server: tuple[Server, Deaf], specs: ShardSpec
) -> None:
    serving, daemon = server
    decode(serving, specs.shard, ROWS)
    objects, tensors = counted()
    decode(serving, specs.shard, 100)
    after = counted()
    assert all(isinstance(reply, Stepped) for _, reply, _ in daemon.last)
    assert after[1] == tensors
    assert after[0] - objects < 20  # 300 steps that kept one object each would show


@pytest.mark.parametrize("server", [(HOST, "model"), (HOST, "int8")], indirect=True)
def test_rows_are_written_where_they_were_reserved(server: tuple[Server, Deaf], specs: ShardSpec) -> None:
    serving, _ = server
    engine = serving._shards[specs.shard]
    decode(serving, specs.shard, 1)
    kv = engine._engine._opened[SESSIONS[0], 0].kv  # type: ignore[attr-defined]
    places = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in kv.layers]
    decode(serving, specs.shard, 2 * ROWS)
    assert places == [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in kv.layers]
