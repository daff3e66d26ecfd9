"""An accelerator's way of computing, on the processor with real numbers, and on a card's shapes alone where there is no card."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from inference.engine import engine as engine_module
from inference.engine.device import HOST, Device, cuda_lack, find_device
from inference.engine.engine import CacheKey, ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.memory.kv_store import KvStore
from inference.engine.memory.pages import PagedStore, make_kv_store
from inference.engine.numerics.contract import CONTRACTS
from inference.engine.numerics.measure import measure_layer
from inference.engine.worker.settings import WorkerSettings
from inference.engine.worker.torch_engines import TorchEngines
from inference.model.kv_form import make_form
from inference.model.paged import PAGE_ROWS
from inference.model.precision import KV_KINDS
from inference.model.weights import TORCH_DTYPES
from protocols.errors import Malformed, Unavailable, UserError, WeftError
from protocols.ids import ModelDigest, SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerRange, LayerShape
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from tests.inference.engine.checkpoints import (
    FAMILY_CHANGES,
    KEY,
    MIB,
    Checkpoint,
    frame,
    kv_rows,
    run_chain,
    save_checkpoint,
    spec,
)

PAGED = Device(torch.device("cpu"))
PROMPT = [(7 * at + at * at) % 97 for at in range(CHUNK + 62)]  # its answers begin new pages
ROWS_MAX = len(PROMPT) + 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tmp_path_factory.mktemp("model"))


def said(engines: list[ShardEngine]) -> list[int]:
    """The greedy answer to the prompt, which goes in two chunks."""
    for engine in engines:
        engine.open_cache(KEY, spec(len(PROMPT), ROWS_MAX))
    run_chain(engines, 0, PROMPT[:CHUNK], sample=False)
    tokens = [run_chain(engines, CHUNK, PROMPT[CHUNK:]) or 0]
    while len(PROMPT) + len(tokens) < ROWS_MAX:
        tokens.append(run_chain(engines, len(PROMPT) + len(tokens) - 1, [tokens[-1]]) or 0)
    return tokens


def check_answers(folder: Path, family: str, device: Device) -> None:
    """In f32 the device says what the processor says: alone, cut in two, and together with the processor."""
    checkpoint = save_checkpoint(folder, family)
    expected = said([checkpoint.engine(dtype="f32")])
    assert said([checkpoint.engine(dtype="f32", device=device)]) == expected
    cut = [checkpoint.engine(each, "f32", device=device) for each in (LayerRange(0, 1), LayerRange(1, 3))]
    assert said(cut) == expected
    mixed = [
        checkpoint.engine(LayerRange(0, 1), "f32"),
        checkpoint.engine(LayerRange(1, 3), "f32", device=device),
    ]
    assert said(mixed) == expected


@pytest.mark.parametrize("family", FAMILY_CHANGES)
def test_a_device_says_in_f32_what_the_processor_says_whole_and_cut(tmp_path: Path, family: str) -> None:
    check_answers(tmp_path, family, PAGED)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("kv", KV_KINDS)
def test_its_keys_and_values_are_those_of_the_processor_within_what_the_dtype_promises(
    checkpoint: Checkpoint, dtype: str, kv: str
) -> None:
    engines = [checkpoint.engine(dtype=dtype, device=device, kv=kv) for device in (HOST, PAGED)]
    form, contract = make_form(kv, TORCH_DTYPES[dtype]), CONTRACTS[dtype, "exact"]
    for engine in engines:
        engine.open_cache(KEY, spec(len(PROMPT), ROWS_MAX))
        run_chain([engine], 0, PROMPT[:CHUNK])
    host, paged = (form.read(torch.stack(kv_rows(engine, CHUNK))).float() for engine in engines)
    tolerance = max(contract.logit_tolerance, contract.kv8_tolerance if form.is_int8 else 0)
    assert (host - paged).norm() < tolerance * host.norm()


def test_sessions_of_all_lengths_say_together_what_each_says_alone(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, "gemma2")  # has windows in every other layer
    lengths = (1, PAGE_ROWS - 1, PAGE_ROWS, 2 * PAGE_ROWS + 1, 5)
    prompts = [[(at * (3 + each)) % 97 for at in range(length)] for each, length in enumerate(lengths)]

    def decoded(engine: ShardEngine, numbers: list[int]) -> list[list[int]]:
        keys: list[CacheKey] = [(SessionId(f"{number:032x}"), 0) for number in numbers]
        logs = [list(prompts[number]) for number in numbers]
        for key, log in zip(keys, logs, strict=True):
            engine.open_cache(key, spec(len(log), len(log) + 70))
            for start in range(0, len(log), CHUNK):
                _, token = engine.step(key, frame(engine, start, log[start : start + CHUNK], session=key[0]))
            log.append(token or 0)
        for _ in range(66):
            work = [
                (key, frame(engine, len(log) - 1, log[-1:], session=key[0]))
                for key, log in zip(keys, logs, strict=True)
            ]
            for log, result in zip(logs, engine.step_together(work), strict=True):
                assert not isinstance(result, WeftError)
                log.append(result[1] or 0)
        for key in keys:
            engine.close_cache(key)
        return logs

    together = decoded(checkpoint.engine(dtype="f32", device=PAGED), [0, 1, 2, 3, 4])
    for number, log in enumerate(together):
        assert decoded(checkpoint.engine(dtype="f32"), [number]) == [log]


def test_frames_of_several_lengths_share_a_step(checkpoint: Checkpoint) -> None:
    keys: list[CacheKey] = [(SessionId(f"{number:032x}"), 0) for number in range(3)]
    tokens = ([1, 2, 3, 4, 5], [6], [7, 8])
    found = []
    for device in (HOST, PAGED):
        engine = checkpoint.engine(dtype="f32", numerics="fast", device=device)
        for key in keys:
            engine.open_cache(key, spec(3, 64))
            engine.step(key, frame(engine, 0, [9, 8, 7], session=key[0]))
        work = [(key, frame(engine, 3, each, session=key[0])) for key, each in zip(keys, tokens, strict=True)]
        found.append(
            [result[1] for result in engine.step_together(work) if not isinstance(result, WeftError)]
        )
        rows = [torch.stack(kv_rows(engine, 3 + len(tokens[at]), key)) for at, key in enumerate(keys)]
        found.append([each.sum().item() for each in rows])
    assert found[0] == found[2]
    assert found[1] == pytest.approx(found[3], rel=1e-4)


def test_a_session_that_is_cut_back_says_the_same_again(checkpoint: Checkpoint) -> None:
    engine = checkpoint.engine(dtype="f32", device=PAGED)
    expected = said([engine])
    at = len(PROMPT)
    again = run_chain([engine], at, expected[:20])  # a replay: many rows in one frame
    assert again == expected[20]
    assert run_chain([engine], at + 20, [expected[20]]) == expected[21]


def test_a_prompt_that_was_kept_is_taken_over(checkpoint: Checkpoint) -> None:
    engine = checkpoint.engine(dtype="f32", device=PAGED)
    kept = CacheSpec(len(PROMPT), ROWS_MAX, Sampling(), prefix=(b"block",))
    first, second = KEY, (SessionId("0f" * 16), 0)
    engine.open_cache(first, kept)
    engine.step(first, frame(engine, 0, PROMPT[:CHUNK]))
    _, expected = engine.step(first, frame(engine, CHUNK, PROMPT[CHUNK:]))
    engine.close_cache(first)
    engine.open_cache(second, kept)
    assert engine.rows(second) == CHUNK
    _, token = engine.step(second, frame(engine, CHUNK, PROMPT[CHUNK:], session=second[0]))
    assert token == expected


def test_what_is_spoilt_in_one_session_reaches_no_other_through_its_pages(checkpoint: Checkpoint) -> None:
    middle, good = checkpoint.engine(LayerRange(1, 2), device=PAGED), (SessionId("0f" * 16), 3)
    row = frame(middle, 0, [1], bytes(range(96)))
    middle.open_cache(good, spec(1, 64))
    expected = bytes(middle.step(good, row)[0])
    middle.open_cache(KEY, spec(1, 64))
    bad, well = middle.step_together([(KEY, frame(middle, 0, [1], bytes([0xC0, 0x7F]) * 48)), (good, row)])
    assert isinstance(bad, Malformed)
    assert not isinstance(well, WeftError)
    assert bytes(well[0]) == expected
    assert bytes(middle.step(KEY, row)[0]) == expected
    middle.step_together([(KEY, frame(middle, 1, [1], bytes([0xC0, 0x7F]) * 48))])
    middle.close_cache(KEY)
    middle.open_cache(KEY, spec(1, 64))
    assert bytes(middle.step(KEY, row)[0]) == expected


def test_nothing_is_left_when_all_sessions_have_ended(checkpoint: Checkpoint) -> None:
    budget = KvBudget(64 * MIB)
    engine = checkpoint.engine(budget=budget, device=PAGED)
    store = engine._store
    assert isinstance(store, PagedStore)
    keys: list[CacheKey] = [(SessionId(f"{number:032x}"), 0) for number in range(5)]
    for key in keys:
        engine.open_cache(key, spec(4, 100))
    assert store.pool.in_use == 10
    assert budget.reserved_bytes == 10 * PAGE_ROWS * engine._row_bytes
    for key in keys:
        engine.close_cache(key)
    assert (store.pool.pages, budget.reserved_bytes) == (0, 0)


def test_it_claims_no_exactness_and_says_where_it_computes(checkpoint: Checkpoint) -> None:
    card = Device(torch.device("cuda", 0), model="NVIDIA H200")
    for numerics, kind in (("exact", "inexact"), ("fast", "fast")):
        loaded = checkpoint.engine(numerics=numerics, device=PAGED).loaded
        assert not loaded.is_exact
        assert loaded.numerics_class.startswith(f"{kind}/bf16/cpu/torch")
    assert card.label == "cuda/NVIDIA/H200"
    assert (HOST.kind, card.kind) == ("cpu", "cuda")


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_dtype_without_kernels_for_it_is_for_others_to_hold(checkpoint: Checkpoint, dtype: str) -> None:
    with pytest.raises(Unavailable, match=f"no kernels for {dtype} on cpu: choose bf16 or f32"):
        checkpoint.engine(dtype=dtype, device=PAGED)


def test_a_layer_is_timed_on_it() -> None:
    ticks = iter(range(1000))
    shape = LayerShape(hidden=32, ffn=64, heads=4, kv_heads=2, head_dim=8, dtype="f32")
    assert measure_layer(shape, lambda: next(ticks) * 0.01, PAGED) == pytest.approx(10)


def test_a_trial_keeps_nothing_of_it(checkpoint: Checkpoint) -> None:
    engine = checkpoint.engine(device=PAGED)
    for rows in (1, 3, 32):
        step = engine.trial(rows)
        for layer in range(3):
            step(layer)
    assert isinstance(engine._store, PagedStore)
    assert engine._store.pool.pages == 0


def test_a_card_that_is_full_is_told_as_memory_that_is_not_there(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Any:
        raise torch.OutOfMemoryError("the card is full")

    engines = TorchEngines(WorkerSettings(1, 64 * MIB), time.perf_counter, PAGED)
    config = (checkpoint.folder / "config.json").read_bytes()
    whole = ShardId(ModelDigest("ab" * 32), checkpoint.config.whole)
    shard = ShardSpec(whole, config, checkpoint.tensors, "f32", "exact")
    loaded = engines.load(shard, lambda _done, _total: None)
    loaded.open_cache(KEY, spec(4, 64))
    work = [(KEY, frame(loaded._engine, 0, [1, 2, 3, 4]))]
    with monkeypatch.context() as patch:
        patch.setattr(Device, "sent", full)
        patch.setattr(Device, "placed", full)
        with pytest.raises(MemoryError, match="card is full"):
            loaded.step_together(work, lambda: None)
        with pytest.raises(MemoryError, match="card is full"):
            engines.load(shard, lambda _done, _total: None)
    assert loaded.rows(KEY) == 0
    (result,) = loaded.step_together(work, lambda: None)
    assert not isinstance(result, WeftError)


# Which one it is ------------------------------------------------------------------------------------------------------


def test_the_processor_is_taken_where_torch_finds_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") is find_device("cpu") is HOST
    with pytest.raises(UserError, match=r"worker\.device is cuda, and torch .*: .*; or set worker\.device"):
        find_device("cuda")


@pytest.mark.parametrize(
    ("built_for", "lack"), [(None, "is built without CUDA: install"), ("12.8", "finds no card: see whether")]
)
def test_the_reason_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, built_for: str | None, lack: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.version, "hip", None)
    assert lack in cuda_lack()


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Card {number}")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
@pytest.mark.usefixtures("two_cards")
def test_every_process_of_a_layer_has_a_card_to_itself(wanted: str) -> None:
    found = [find_device(wanted, rank, 2) for rank in range(2)]
    assert [(each.place, each.label) for each in found] == [
        (torch.device("cuda", 0), "cuda/Card/0"),
        (torch.device("cuda", 1), "cuda/Card/1"),
    ]


@pytest.mark.usefixtures("two_cards")
def test_where_there_are_fewer_cards_than_processes_the_processor_is_taken_or_the_user_told() -> None:
    assert find_device("auto", 0, 4) is HOST
    with pytest.raises(
        UserError, match=r"4 processes need a card each .* 2 cards: set worker\.tensor_parallel to 2"
    ):
        find_device("cuda", 0, 4)


# No tensor of the processor among those of a card ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kv"),
    [
        *((name, "model") for name in FAMILY_CHANGES if name not in {"qwen3_moe", "mixtral"}),
        ("gemma2", "int8"),
    ],
)
def test_a_step_never_mixes_tensors_of_the_card_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, kv: str
) -> None:
    """On tensors that have a device and a shape and no numbers, which torch refuses to mix as it does those of a card. They are
    of the device "meta": a torch that is built without CUDA has no tensors of that, not even such ones."""
    checkpoint, mode = save_checkpoint(tmp_path, family), FakeTensorMode(allow_non_fake_inputs=True)

    def placed(device: Device, weight: Tensor) -> Tensor:
        with mode:
            return torch.empty(weight.shape, dtype=weight.dtype, device=device.place)

    def make_store(*arguments: Any) -> KvStore:
        with mode:
            return make_kv_store(*arguments)

    monkeypatch.setattr(Device, "placed", placed)
    monkeypatch.setattr(engine_module, "make_kv_store", make_store)
    card = Device(torch.device("meta"))
    ranges = (LayerRange(0, 1), LayerRange(1, 3))
    first, last = (checkpoint.engine(each, device=card, kv=kv) for each in ranges)
    keys: list[CacheKey] = [(SessionId(f"{number:032x}"), 0) for number in range(2)]
    with mode, torch.inference_mode():
        for engine in (first, last):
            for key in keys:
                engine.open_cache(key, spec(CHUNK, 200))
            through(engine, keys[:1], 0, CHUNK)
            through(engine, keys[1:], 0, CHUNK)
            x = through(engine, keys, CHUNK, 1)
            through(engine, keys, CHUNK, 3)  # cut back
            for key in keys:
                engine._opened[key].kv.append(engine._opened[key].kv.copied(0, 2))
                engine.close_cache(key)
        logits = last.head.logits(x)
        assert on_card(logits)
        assert not on_card(card.fetched(logits))


def through(engine: ShardEngine, keys: list[CacheKey], position: int, rows: int) -> Tensor:
    """What a step comes to on the card."""
    body = bytearray(0 if engine.starts_model else 2 * rows * engine.config.hidden)
    segments = [
        engine._checked(key, frame(engine, position, [1] * rows, body, session=key[0])) for key in keys
    ]
    x = engine._through(segments, engine._plan(segments), lambda: None)
    for key in keys:
        engine._opened[key].kv.rows = position + rows
    assert on_card(x)
    assert len(x) == len(keys) * rows
    return x


def on_card(tensor: Tensor) -> bool:
    assert isinstance(tensor, FakeTensor)
    return tensor.device.type == "meta"
