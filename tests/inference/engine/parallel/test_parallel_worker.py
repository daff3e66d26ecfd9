"""A worker of several processes, real ones that add by gloo: the same contract, the same tokens, and no process left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from inference.engine.worker.client import WorkerClient
from node.processes import python_child, torch_worker
from protocols.errors import UserError, WorkerDied
from protocols.ids import ModelDigest, SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId, ShardSpec, TensorFile
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.contracts.worker_contract import Rig, until_up
from tests.inference.engine.checkpoints import Checkpoint, save_checkpoint
from tests.inference.engine.torch_worker_contract import TorchWorkerContract
from tests.inference.model.folders import HIDDEN, tiny_tensors, write_tiny_folder

MODEL = ModelDigest("cd" * 32)
ONE, TWO = (SessionId(f"{number:032x}") for number in (1, 2))
PROMPT = tuple((7 * at + at * at) % 97 for at in range(CHUNK + 20))
MEMORY_BYTES = 4_000_000
PATIENCE_S = 60  # what nothing here takes on any machine
IMPATIENT = str(Path(__file__).with_name("impatient_worker.py"))


@asynccontextmanager
async def running(client: WorkerClient) -> AsyncIterator[WorkerClient]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(2 * PATIENCE_S):
            await nursery.start(client.run)
            yield client
        nursery.cancel_scope.cancel()


def parallel(ranks: int = 2) -> WorkerClient:
    return WorkerClient(torch_worker(ranks, MEMORY_BYTES, ranks=ranks), MEMORY_BYTES)


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    assert pid is not None
    os.kill(pid, number)


def children(pid: int | None) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until_gone(pids: list[int]) -> None:
    """They are no children of ours, so that there is no other way than to look."""
    assert pids
    with trio.fail_after(PATIENCE_S):
        for pid in pids:
            while is_alive(pid):
                await trio.sleep(0.01)


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def no_progress(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSpec, ...]:
    folder = write_tiny_folder(tmp_path_factory.mktemp("model"))
    files = tuple(TensorFile(name, str(folder / "model.safetensors"), name) for name in tiny_tensors())
    config = (folder / "config.json").read_bytes()
    return tuple(
        ShardSpec(ShardId(MODEL, LayerRange(*cut)), config, files, "f32", "exact")
        for cut in ((0, 1), (1, 3), (3, 4))
    )


async def test_a_worker_of_two_processes_keeps_the_contract(specs: tuple[ShardSpec, ...]) -> None:
    contract = TorchWorkerContract()
    client = WorkerClient(torch_worker(2, 1_000_000, ranks=2), 1_000_000)
    async with running(client):
        rig = Rig(client, specs, HIDDEN, lambda: kill(client.pid))
        for name in dir(contract):
            if name.startswith("test_"):
                print(name)
                await getattr(contract, name)(rig)
                for spec in specs:
                    await client.unload(spec.shard)
                assert client.free_bytes() == 1_000_000
