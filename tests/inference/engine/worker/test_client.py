"""The client over real processes: a worker with torch for the contract, one without for what happens around calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from inference.engine.worker.client import WorkerClient
from inference.engine.worker.restarts import Restarts
from inference.engine.worker.settings import WorkerSettings
from inference.model.precision import KV_KINDS
from node.processes import python_child, torch_worker
from protocols import limits
from protocols.errors import LocalFault, Malformed, Overloaded, Unavailable, UserError, WorkerDied
from protocols.ids import ModelDigest
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId, ShardSpec, TensorFile
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from tests.contracts.worker_contract import SESSION, SHAPE, Rig, until_up
from tests.inference.engine.torch_worker_contract import TorchWorkerContract
from tests.inference.model.folders import HIDDEN, tiny_tensors, write_tiny_folder

FAKE = str(Path(__file__).parent.with_name("fake_worker.py"))
MODEL = ModelDigest("cd" * 32)
SHARD = ShardId(MODEL, LayerRange(1, 3))
QUICK = ShardSpec(SHARD, b"{}", (), "f32", "exact")
CACHE = CacheSpec(4, 100, None)


def frame(position: int, rows: int = 1, width: int = 4) -> Frame:
    header = Header(
        Kind.DECODE, SESSION, 0, 1, position, rows, width, position, Numerics.EXACT, DType.F32, sample=True
    )
    return Frame(header, (1,) * rows, bytes(header.body_bytes))


def no_progress(done: int, total: int) -> None:
    pass


@asynccontextmanager
async def running(client: WorkerClient) -> AsyncIterator[WorkerClient]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await nursery.start(client.run)
            yield client
        nursery.cancel_scope.cancel()


@pytest.fixture
async def client() -> AsyncIterator[WorkerClient]:
    async with running(WorkerClient(python_child(FAKE), 10_000)) as client:
        yield client


def kill(client: WorkerClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardSpec, ...]:
    folder = write_tiny_folder(tmp_path_factory.mktemp("model"))
    files = tuple(TensorFile(name, str(folder / "model.safetensors"), name) for name in tiny_tensors())
    config = (folder / "config.json").read_bytes()
    return tuple(
        ShardSpec(ShardId(MODEL, LayerRange(*cut)), config, files, "f32", "exact")
        for cut in ((0, 1), (1, 3), (3, 4))
    )


@pytest.mark.parametrize("kv", KV_KINDS)
async def test_the_torch_worker_keeps_the_contract(specs: tuple[ShardSpec, ...], kv: str) -> None:
    # One process for all of it: importing torch takes longer than everything else together.
    contract = TorchWorkerContract()
    client = WorkerClient(torch_worker(WorkerSettings(1, 1_000_000, kv=kv)), 1_000_000)
    async with running(client):
        rig = Rig(client, specs, HIDDEN, lambda: kill(client))
        for name in dir(contract):
            if name.startswith("test_"):
                print(name)
                await getattr(contract, name)(rig)
                for spec in specs:
                    await client.unload(spec.shard)
                assert client.free_bytes() == 1_000_000


async def test_what_is_free_is_what_the_machine_has_too_less_what_sessions_were_promised() -> None:
    room = 10_000
    async with running(WorkerClient(python_child(FAKE), 10_000, lambda: room)) as client:
        assert client.free_bytes() == 10_000
        room = 3000
        assert client.free_bytes() == 3000
        await client.load(QUICK, no_progress)
        await client.open_cache(SHARD, SESSION, 1, CACHE)
        assert client.free_bytes() == 3000 - CACHE.rows_max
        await client.step(SHARD, frame(0, 30))
        assert client.free_bytes() == 3000 - CACHE.rows_max + 30
        room = -5
        assert client.free_bytes() == 0


async def test_a_worker_on_a_card_has_what_it_says_whatever_the_machine_has_left() -> None:
    async with running(WorkerClient(python_child(FAKE, "cuda", "7000"), 10_000, lambda: -5)) as client:
        memory = client.memory()
        assert (memory.device, memory.budget_bytes, client.free_bytes()) == ("cuda", 7000, 7000)


async def test_a_card_that_is_asked_for_and_not_there_is_the_users_to_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"worker\.device is cuda, and torch .*; or set worker\.device"):
        await WorkerClient(torch_worker(WorkerSettings(1, 1_000_000, device="cuda")), 1_000_000).run()


async def test_a_cache_that_could_not_be_closed_is_found_by_asking(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.load(QUICK, no_progress)
    await client.open_cache(SHARD, SESSION, 1, CACHE)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "WORKER_REQUESTS_MAX", 0)
        with pytest.raises(Overloaded):
            await client.close_cache(SHARD, SESSION, 1)
    assert client.memory().caches == ()
    assert await client.caches() == ((SHARD, SESSION, 1),)
    await client.close_cache(SHARD, SESSION, 1)
    assert await client.caches() == ()


async def test_a_killed_worker_fails_the_load_that_was_under_way(client: WorkerClient) -> None:
    slow = replace(QUICK, config=b'{"load_s": 30}')
    seen: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))
        kill(client)

    with pytest.raises(WorkerDied):
        await client.load(slow, on_progress)
    assert seen
    assert client.free_bytes() == 10_000
    await until_up(Rig(client, (QUICK,), 4, lambda: None))
    await client.load(QUICK, no_progress)


async def test_a_killed_worker_fails_all_steps_that_wait(client: WorkerClient) -> None:
    await client.load(replace(QUICK, config=b'{"step_s": 30}'), no_progress)
    await client.open_cache(SHARD, SESSION, 1, CACHE)
    failed = []

    async def step() -> None:
        with pytest.raises(WorkerDied):
            await client.step(SHARD, frame(0))
        failed.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(step)
        nursery.start_soon(client.wait_died)
        await trio.testing.wait_all_tasks_blocked(0.05)
        kill(client)
    assert len(failed) == 3


async def test_a_large_body_goes_both_ways_while_others_wait(client: WorkerClient) -> None:
    await client.load(QUICK, no_progress)
    await client.open_cache(SHARD, SESSION, 1, CACHE)
    sizes: list[int] = []

    async def step(position: int, rows: int) -> None:
        result = await client.step(SHARD, frame(position, rows, 65_536))
        sizes.append(len(result.body))
        assert bytes(result.body[-4:]) == b"\x00\x00\x00\x40"  # 2.0, after two layers

    async with trio.open_nursery() as nursery:
        for position in (0, 32, 64):
            nursery.start_soon(step, position, 32)
            await trio.testing.wait_all_tasks_blocked(0)
    assert sizes == [32 * 65_536 * 4] * 3


async def test_progress_of_a_step_shows_while_it_runs(client: WorkerClient) -> None:
    deep = ShardId(MODEL, LayerRange(1, 101))
    await client.load(replace(QUICK, shard=deep, config=b'{"step_s": 1}'), no_progress)
    await client.open_cache(deep, SESSION, 1, CACHE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.step, deep, frame(0))
        while client.work([(SESSION, 1)]) == 0:
            await trio.sleep(0.01)
        assert client.work([(SESSION, 1)]) < 100
    assert client.work([(SESSION, 1)]) == 100


async def test_a_cancelled_load_is_undone(client: WorkerClient) -> None:
    with trio.CancelScope() as scope:
        await client.load(replace(QUICK, config=b'{"load_s": 0.2}'), lambda _done, _total: scope.cancel())
    assert scope.cancelled_caught
    with pytest.raises(Unavailable, match="does not hold"):
        await client.open_cache(SHARD, SESSION, 1, CACHE)
    assert client.free_bytes() == 10_000


async def test_a_failed_request_says_why_and_harms_nothing(client: WorkerClient) -> None:
    with pytest.raises(UserError, match="no such model"):
        await client.load(replace(QUICK, config=b"[]"), no_progress)
    await client.load(QUICK, no_progress)
    await client.open_cache(SHARD, SESSION, 1, CACHE)
    with pytest.raises(Malformed, match="follow on"):
        await client.step(SHARD, frame(7))
    assert (await client.step(SHARD, frame(0))).token is not None


async def test_more_requests_than_the_bound_are_refused(
    client: WorkerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WORKER_REQUESTS_MAX", 2)
    refused = []

    async def load() -> None:
        try:
            await client.load(replace(QUICK, config=b'{"load_s": 0.2}'), no_progress)
        except Overloaded:
            refused.append(True)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(load)
    assert refused == [True]


async def test_signals_to_the_group_do_not_end_the_worker(client: WorkerClient) -> None:
    assert client.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(client.pid, number)
    assert await client.measure_layer(SHAPE) == 1.0


async def test_a_worker_that_is_computing_is_gone_after_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_STOP_S", 0.2)
    client = WorkerClient(python_child(FAKE), 10_000)
    async with running(client):
        pid = client.pid
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.load, replace(QUICK, config=b'{"load_s": 30}'), no_progress)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_worker_that_never_comes_up_fails_the_start() -> None:
    for arguments in (("-c", "raise SystemExit(1)"), ("-c", "print(end='')")):
        with pytest.raises(LocalFault, match="did not come up"):
            await WorkerClient(python_child(*arguments), 1).run()


async def test_a_worker_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_START_S", 0.1)
    monkeypatch.setattr(limits, "WORKER_STOP_S", 0.1)
    with pytest.raises(LocalFault, match="did not come up"):
        await WorkerClient(python_child("-c", "import time; time.sleep(60)"), 1).run()


async def test_garbage_from_the_worker_counts_as_its_end() -> None:
    code = "import os, sys; os.write(int(sys.argv[-1]), bytes([0, 0, 0, 1, *bytes(8), 0xC1]))"
    with pytest.raises(LocalFault, match="cannot read"):
        await WorkerClient(python_child("-c", code), 1).run()


def test_a_worker_does_not_outlive_a_killed_daemon() -> None:
    code = f"""
import trio
from inference.engine.worker.client import WorkerClient
from node.processes import python_child
async def main():
    client = WorkerClient(python_child({FAKE!r}), 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        print(client.pid, flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        worker_pid = int(daemon.stdout.readline())
        daemon.kill()
    trio.run(wait_gone, worker_pid)


async def wait_gone(pid: int) -> None:
    with trio.fail_after(10):
        while Path(f"/proc/{pid}").exists() and not _is_zombie(pid):
            await trio.sleep(0.01)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_restarts_begin_at_once_and_then_wait_ever_longer_until_it_is_steady() -> None:
    restarts, delays, now = Restarts(), [], 1000.0
    for _ in range(9):
        restarts.started(now)
        delays.append(restarts.delay_s(now + 1))
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    restarts.started(now)
    assert restarts.delay_s(now + limits.WORKER_STEADY_S) == 0
