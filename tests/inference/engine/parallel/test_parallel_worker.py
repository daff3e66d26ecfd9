"""A worker of several processes, real ones: the same contract, the same tokens, and no process left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from safetensors.torch import load_file, save_file

from inference.engine.engine import WIRE_DTYPES
from inference.engine.reference import generate
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from node.processes import python_child, torch_worker
from protocols.errors import Unavailable, UserError, WorkerDied
from protocols.ids import ModelDigest, SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId, ShardSpec, TensorFile
from protocols.session import Sampling
from protocols.tensor import Frame, Header, Kind, Numerics
from tests.contracts.worker_contract import Rig
from tests.inference.engine.checkpoints import Checkpoint, save_checkpoint
from tests.inference.engine.torch_worker_contract import TorchWorkerContract
from tests.inference.model.folders import HIDDEN, tiny_tensors, write_tiny_folder

MODEL = ModelDigest("cd" * 32)
OTHER = ShardId(ModelDigest("ef" * 32), LayerRange(0, 3))
ONE, TWO = (SessionId(f"{number:032x}") for number in (1, 2))
PROMPT = tuple((7 * at + at * at) % 97 for at in range(CHUNK + 20))
MEMORY_BYTES = 4_000_000
SILENCE_S = "4"
PATIENCE_S = 60  # what nothing here takes on any machine
WORKER = str(Path(__file__).with_name("parallel_worker.py"))


@asynccontextmanager
async def running(client: WorkerClient) -> AsyncIterator[WorkerClient]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(2 * PATIENCE_S):
            await nursery.start(client.run)
            yield client
        nursery.cancel_scope.cancel()


def kill(pid: int | None, number: signal.Signals = signal.SIGKILL) -> None:
    assert pid is not None
    os.kill(pid, number)


async def until_up_again(client: WorkerClient) -> None:
    with trio.fail_after(2 * PATIENCE_S):
        while True:
            with suppress(WorkerDied):
                await client.caches()
                return
            await trio.sleep(0.02)


def children(pid: int | None) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Watched:
    """Processes that need not be children of this one, by descriptors that tell of their end."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids
        self._descriptors = [os.pidfd_open(pid) for pid in pids]

    async def until_gone(self) -> None:
        with trio.fail_after(PATIENCE_S):
            for each in self._descriptors:
                await trio.lowlevel.wait_readable(each)
                os.close(each)


def watched(client: WorkerClient) -> Watched:
    assert client.pid is not None
    return Watched(client.pid, *children(client.pid))


def no_progress(done: int, total: int) -> None:
    pass


# What of the contract goes through all processes; the rest is the leader's alone.
SHARED = (
    "a_cache_past_the_memory_is_refused_and_harms_nothing",
    "a_config_that_cannot_be_served_fails_the_load_alone",
    "a_layer_can_be_measured",
    "a_rebuilt_range_goes_on_with_the_same_bits",
    "a_truncated_cache_goes_on_as_if_the_cut_rows_had_never_been",
    "free_memory_shrinks_by_shards_and_caches_and_comes_back",
    "many_sessions_at_once_say_what_each_says_alone",
    "one_peer_or_one_session_cannot_take_the_memory_of_all",
    "rows_that_are_not_finite_harm_their_own_session_alone",
    "steps_of_a_session_that_is_closed_meanwhile_are_dropped",
    "what_is_kept_of_a_prompt_counts_apart_until_it_is_dropped",
)


def spec_of(checkpoint: Checkpoint, dtype: str = "f32") -> ShardSpec:
    config = (checkpoint.folder / "config.json").read_bytes()
    return ShardSpec(ShardId(MODEL, checkpoint.config.whole), config, checkpoint.tensors, dtype, "exact")


async def say(
    client: WorkerClient,
    spec: ShardSpec,
    session: SessionId,
    prompt: tuple[int, ...] = PROMPT,
    count: int = 8,
) -> tuple[int, list[int]]:
    """The row that it begins at, and the tokens."""
    names = tuple(bytes(prompt[: end * CHUNK]) for end in range(1, len(prompt) // CHUNK + 1))
    asked = CacheSpec(len(prompt), len(prompt) + count, Sampling(), prefix=names)
    began = at = await client.open_cache(spec.shard, session, 0, asked)
    log = list(prompt)
    while len(log) < len(prompt) + count:
        end = min(at + CHUNK, len(prompt)) if at < len(prompt) else at + 1
        tokens = tuple(log[at:end])
        header = Header(
            Kind.PREFILL, session, 0, 0, at, len(tokens), 0, at, Numerics.EXACT, WIRE_DTYPES[spec.dtype],
            sample=end == len(log),
        )  # fmt: skip
        token, at = (await client.step(spec.shard, Frame(header, tokens, b""))).token, end
        if token is not None:
            log.append(token)
    await client.close_cache(spec.shard, session, 0)
    return began, log[len(prompt) :]


def said_alone(checkpoint: Checkpoint, dtype: str = "f32") -> list[int]:
    engine = checkpoint.engine(dtype=dtype)
    return list(generate(engine, PROMPT, CacheSpec(len(PROMPT), len(PROMPT) + 8, Sampling()), ()))


async def test_two_processes_keep_the_contract_and_say_what_one_says(tmp_path: Path) -> None:
    # One worker for all of it: importing torch takes longer than everything else together.
    client = WorkerClient(torch_worker(WorkerSettings(2, 1_000_000, ranks=2)), 1_000_000)
    async with running(client):
        await keeps_the_contract(client, tmp_path / "tiny")
        for family in ("llama", "qwen3_moe", "phi3"):
            checkpoint = save_checkpoint(tmp_path / family, family)
            await says_what_one_says_and_takes_over_prompts(client, checkpoint)
        await is_unharmed_by_loads_that_fail(client, tmp_path)
        assert client.free_bytes() == 1_000_000


async def keeps_the_contract(client: WorkerClient, folder: Path) -> None:
    write_tiny_folder(folder)
    files = tuple(TensorFile(name, str(folder / "model.safetensors"), name) for name in tiny_tensors())
    config = (folder / "config.json").read_bytes()
    specs = tuple(
        ShardSpec(ShardId(MODEL, LayerRange(*cut)), config, files, "f32", "exact")
        for cut in ((0, 1), (1, 3), (3, 4))
    )
    contract, rig = TorchWorkerContract(), Rig(client, specs, HIDDEN, lambda: kill(client.pid))
    for name in SHARED:
        print(name)
        await getattr(contract, f"test_{name}")(rig)
        for spec in specs:
            await client.unload(spec.shard)
        assert client.free_bytes() == 1_000_000


async def says_what_one_says_and_takes_over_prompts(client: WorkerClient, checkpoint: Checkpoint) -> None:
    spec, expected = spec_of(checkpoint), said_alone(checkpoint)
    loaded = await client.load(spec, no_progress)
    assert loaded.numerics_class.endswith("/tp2")
    assert loaded.resident_bytes > checkpoint.config.range_bytes(checkpoint.config.whole, "f32")
    assert await say(client, spec, ONE) == (0, expected)
    assert await say(client, spec, TWO) == (CHUNK, expected)
    await client.unload(spec.shard)


async def is_unharmed_by_loads_that_fail(client: WorkerClient, folder: Path) -> None:
    good, bad = save_checkpoint(folder / "good"), save_checkpoint(folder / "bad")
    weights = load_file(bad.folder / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"][:, -1] = float("inf")  # in the second slice
    save_file(weights, bad.folder / "model.safetensors")
    three = save_checkpoint(folder / "three", num_attention_heads=6, num_key_value_heads=3)
    await client.load(spec_of(good), no_progress)
    _, first = await say(client, spec_of(good), ONE)
    broken = spec_of(bad)
    with pytest.raises(UserError, match="not finite"):
        await client.load(ShardSpec(OTHER, broken.config, broken.tensors, "f32", "exact"), no_progress)
    with pytest.raises(UserError, match=r"3 key heads .*: set worker.tensor_parallel to 1$"):
        await client.load(ShardSpec(OTHER, spec_of(three).config, (), "f32", "exact"), no_progress)
    # What was kept of prompts is gone, for ranks may have let go of other ones.
    assert await say(client, spec_of(good), TWO) == (0, first)
    await client.unload(spec_of(good).shard)


async def test_cards_that_are_asked_for_and_not_there_are_the_users_to_mend_and_told_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    settings = WorkerSettings(2, MEMORY_BYTES, device="cuda", ranks=2)
    with pytest.raises(UserError, match=r"worker\.device is cuda, and torch .*; or set worker\.device"):
        await WorkerClient(torch_worker(settings), MEMORY_BYTES).run()
    assert "Traceback" not in capfd.readouterr().err


async def test_four_processes_say_what_one_says(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, num_key_value_heads=4)
    client = WorkerClient(torch_worker(WorkerSettings(4, MEMORY_BYTES, ranks=4)), MEMORY_BYTES)
    async with running(client):
        assert len(children(client.pid)) == 3
        await client.load(spec_of(checkpoint), no_progress)
        assert await say(client, spec_of(checkpoint), ONE) == (0, said_alone(checkpoint))


async def test_all_processes_keep_their_caches_in_8_bit_if_one_is_to(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    spec, config = spec_of(checkpoint), checkpoint.config
    client = WorkerClient(torch_worker(WorkerSettings(2, MEMORY_BYTES, ranks=2, kv="int8")), MEMORY_BYTES)
    async with running(client):
        loaded = await client.load(spec, no_progress)
        assert loaded.is_exact
        assert loaded.numerics_class.endswith("/kv8/tp2")
        free_bytes = client.free_bytes()
        asked = CacheSpec(1, 3 * CHUNK, Sampling())
        await client.open_cache(spec.shard, ONE, 0, asked)
        row_bytes = config.layers * 2 * config.kv_heads * (config.head_dim + 4)
        assert free_bytes - client.free_bytes() == 3 * CHUNK * row_bytes
        await client.close_cache(spec.shard, ONE, 0)
        _, said = await say(client, spec, ONE)
        assert await say(client, spec, TWO) == (CHUNK, said)


async def test_if_a_process_is_killed_all_end_at_once_and_others_take_their_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(tmp_path)
    spec, client = (
        spec_of(checkpoint),
        WorkerClient(torch_worker(WorkerSettings(2, MEMORY_BYTES, ranks=2)), MEMORY_BYTES),
    )
    async with running(client):
        await client.load(spec, no_progress)
        first = watched(client)
        kill(first.pids[1])
        await first.until_gone()  # though nobody asks for anything
        await until_up_again(client)
        with pytest.raises(Unavailable):
            await say(client, spec, ONE)
        await client.load(spec, no_progress)
        assert await say(client, spec, TWO) == (0, said_alone(checkpoint))
        second = watched(client)
        kill(second.pids[0])
        await second.until_gone()
    assert "weft worker: the process of rank 1 of 2 has ended with code -9\n" in capfd.readouterr().err


@pytest.mark.parametrize("backend", ["", "gloo"])
async def test_by_sockets_and_by_gloo_the_same_is_said_until_a_process_hangs_which_ends_all(
    tmp_path: Path, backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(tmp_path)
    spec, client = spec_of(checkpoint), WorkerClient(python_child(WORKER, SILENCE_S, backend), MEMORY_BYTES)
    async with running(client):
        await client.load(spec, no_progress)
        assert await say(client, spec, ONE) == (0, said_alone(checkpoint))
        assert await say(client, spec, TWO) == (CHUNK, said_alone(checkpoint))
        every = watched(client)
        kill(every.pids[1], signal.SIGSTOP)
        with trio.fail_after(PATIENCE_S), pytest.raises(WorkerDied):
            await say(client, spec, ONE)
        await every.until_gone()
    assert "weft worker: a process that shares the layers has ended or hangs\n" in capfd.readouterr().err
