"""The same engine on a card that torch finds; skipped where it finds none, which is no sign that it would pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trio

from inference.engine.device import HOST, Device, cuda_lack, find_device
from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.memory.pages import PagedStore
from inference.engine.numerics.contract import CONTRACTS
from inference.engine.numerics.measure import measure_layer
from inference.engine.recordings import RECORDED_AFTER
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from inference.model.precision import KV_KINDS
from node.processes import torch_worker
from protocols.ids import ModelDigest
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange, LayerShape
from protocols.seams import ShardId, ShardSpec
from tests.inference.engine.checkpoints import (
    FAMILY_CHANGES,
    KEY,
    MIB,
    Checkpoint,
    kv_rows,
    run_chain,
    save_checkpoint,
    spec,
)
from tests.inference.engine.test_device import PROMPT, ROWS_MAX, check_answers, said
from tests.inference.engine.test_recordings import Talk, recordings_of

pytestmark = pytest.mark.skipif(bool(cuda_lack()), reason=f"no card to test on: {cuda_lack()}")


@pytest.fixture(scope="module")
def card() -> Device:
    return find_device("cuda")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("family", FAMILY_CHANGES)
def test_a_card_says_in_f32_what_the_processor_says_whole_and_cut(
    tmp_path: Path, family: str, card: Device
) -> None:
    check_answers(tmp_path, family, card)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_its_keys_and_values_are_within_what_the_dtype_promises(
    checkpoint: Checkpoint, card: Device, dtype: str
) -> None:
    found = []
    for device in (HOST, card):
        engine = checkpoint.engine(dtype=dtype, device=device)
        engine.open_cache(KEY, spec(len(PROMPT), ROWS_MAX))
        run_chain([engine], 0, PROMPT[:CHUNK])
        found.append(torch.stack(kv_rows(engine, CHUNK)).float().cpu())
    host, ours = found
    assert (host - ours).norm() < CONTRACTS[dtype, "exact"].logit_tolerance * host.norm()


def test_logits_in_bf16_are_within_what_the_dtype_promises(checkpoint: Checkpoint, card: Device) -> None:
    rows = torch.randn(7, checkpoint.config.hidden, generator=torch.Generator().manual_seed(1))
    last = LayerRange(2, 3)
    host = checkpoint.engine(last, "f32").head.logits(rows)
    engine = checkpoint.engine(last, "bf16", device=card)
    ours = engine.head.logits(rows.to(torch.bfloat16).to(card.place)).cpu()
    assert (host - ours).norm() < CONTRACTS["bf16", "exact"].logit_tolerance * host.norm()


@pytest.fixture
def engine(checkpoint: Checkpoint, card: Device) -> Iterator[ShardEngine]:
    engine = checkpoint.engine(device=card)
    yield engine
    engine.close()


def test_nothing_is_left_on_it_when_all_sessions_have_ended(checkpoint: Checkpoint, card: Device) -> None:
    said([checkpoint.engine(device=card)])  # what torch's libraries take for themselves, once and for all
    before_bytes = torch.cuda.memory_allocated(card.place)
    budget = KvBudget(64 * MIB)
    engine = checkpoint.engine(budget=budget, device=card)
    weights_bytes = torch.cuda.memory_allocated(card.place)
    assert weights_bytes > before_bytes
    said([engine])
    assert torch.cuda.memory_allocated(card.place) > weights_bytes
    engine.close_cache(KEY)
    assert isinstance(engine._store, PagedStore)
    assert (engine._store.pool.pages, budget.reserved_bytes) == (0, 0)
    engine.close()
    left_bytes = torch.cuda.memory_allocated(card.place) - before_bytes
    assert left_bytes < engine.resident_bytes  # the tables of angles stay with the engine


@pytest.mark.parametrize("kv", KV_KINDS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_steps_that_it_has_recorded_say_what_plain_ones_say(
    tmp_path: Path, card: Device, family: str, kv: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, family)
    expected = said([checkpoint.engine(dtype="f32", device=replace(card, records=False), kv=kv)])
    engine = checkpoint.engine(dtype="f32", device=card, kv=kv)
    for _ in range(2):  # those of the first session are gone with it
        assert said([engine]) == expected
        assert len(recordings_of(engine)) > 0
        engine.close_cache(KEY)
        assert len(recordings_of(engine)) == 0


def test_what_it_has_recorded_is_not_used_where_the_pool_has_moved(
    checkpoint: Checkpoint, card: Device
) -> None:
    logs = []
    for device in (replace(card, records=False), card):
        talk = Talk(checkpoint.engine(dtype="f32", device=device))
        first = talk.join(3, 100)
        talk.go_on(RECORDED_AFTER + 3)
        talk.join(5, 400)
        talk.go_on(5, [first])
        talk.go_on(RECORDED_AFTER + 3)
        logs.append(talk.logs)
    assert logs[0] == logs[1]
    assert len(recordings_of(talk.engine)) == 2


def test_no_memory_of_recordings_is_left_when_the_last_session_has_closed(engine: ShardEngine) -> None:
    place, found = engine._device.place, []
    for _ in range(3):
        said([engine])
        assert len(recordings_of(engine)) > 0
        used_bytes = torch.cuda.memory_allocated(place)
        engine.close_cache(KEY)
        found.append(torch.cuda.memory_allocated(place))
        assert found[-1] < used_bytes
    assert found[1] == found[2]  # the first time, libraries take what they keep


def test_it_claims_no_exactness_and_names_the_card(engine: ShardEngine) -> None:
    assert engine.loaded.numerics_class.startswith("inexact/bf16/cuda/")
    assert not engine.loaded.is_exact


def test_a_layer_is_timed_on_it(card: Device) -> None:
    shape = LayerShape(hidden=1024, ffn=4096, heads=16, kv_heads=4, head_dim=64, dtype="bf16")
    ticks = iter(range(1000))
    assert measure_layer(shape, lambda: next(ticks) * 0.01, card) == pytest.approx(10)


async def loaded_class(checkpoint: Checkpoint, settings: WorkerSettings) -> str:
    """Of a model that a worker on cards has loaded."""
    client = WorkerClient(torch_worker(settings), settings.memory_bytes)
    shard = ShardId(ModelDigest("ab" * 32), checkpoint.config.whole)
    config = (checkpoint.folder / "config.json").read_bytes()
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        memory = client.memory()
        assert (memory.device, memory.budget_bytes) == ("cuda", settings.card_bytes)
        loaded = await client.load(
            ShardSpec(shard, config, checkpoint.tensors, "bf16", "exact"), lambda _done, _total: None
        )
        nursery.cancel_scope.cancel()
    return loaded.numerics_class


async def test_a_worker_on_it_says_so_and_loads(checkpoint: Checkpoint) -> None:
    settings = WorkerSettings(1, 1, card_bytes=64 * MIB, device="auto")
    assert "/cuda/" in await loaded_class(checkpoint, settings)


@pytest.mark.skipif(bool(cuda_lack(2)), reason=f"no two cards to test on: {cuda_lack(2)}")
async def test_two_cards_share_a_layer(checkpoint: Checkpoint) -> None:
    settings = WorkerSettings(2, 1, card_bytes=64 * MIB, device="cuda", ranks=2)
    assert (await loaded_class(checkpoint, settings)).endswith("/tp2")
