"""One shard: caches and their budget, frames that do not belong, samples, and what a frame's memory may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.model.precision import KV_KINDS
from protocols.errors import Malformed, Overloaded, WeftError
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec
from protocols.session import Sampling
from protocols.tensor import DType, Numerics
from tests.inference.engine.checkpoints import (
    KEY,
    MIB,
    SESSION,
    Checkpoint,
    frame,
    kv_rows,
    run_chain,
    save_checkpoint,
    spec,
)

ROW_BYTES = 3 * 2 * 2 * 16 * 2  # layers, keys and values, heads, dim, bf16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return save_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def engine(checkpoint: Checkpoint) -> ShardEngine:
    engine = checkpoint.engine()
    engine.open_cache(KEY, spec(4, 64))
    return engine


def test_caches_reserve_all_their_rows_and_give_them_back(checkpoint: Checkpoint) -> None:
    budget = KvBudget(3 * 64 * ROW_BYTES, planned_bytes=3 * 64 * ROW_BYTES)
    engine = checkpoint.engine(budget=budget)
    other = (SessionId("0f" * 16), 0)
    assert engine.open_cache(KEY, spec(4, 65)) == budget.reserved_bytes == 2 * 64 * ROW_BYTES
    assert engine.open_cache(other, spec(4, 64)) == 64 * ROW_BYTES
    with pytest.raises(Overloaded, match="does not fit"):
        engine.open_cache((SESSION, 1), spec(1, 1))
    engine.close_cache(other)
    engine.close_cache(other)
    engine.open_cache((SESSION, 1), spec(1, 1))
    engine.close()
    assert budget.reserved_bytes == 0


@pytest.mark.parametrize(("dtype", "share"), [("bf16", (16 + 2) / 32), ("f32", (16 + 4) / 64)])
def test_in_8_bit_a_budget_holds_so_much_longer_sessions(
    checkpoint: Checkpoint, dtype: str, share: float
) -> None:
    sizes = []
    for kv in KV_KINDS:
        budget = KvBudget(64 * MIB, kv=kv)
        engine = checkpoint.engine(dtype=dtype, budget=budget)
        sizes.append(engine.open_cache(KEY, spec(4, 512)))
        assert sizes[-1] == budget.reserved_bytes
        kv_bytes = sum(
            each.numel() * each.itemsize
            for layer in engine._opened[KEY].kv.layers  # type: ignore[attr-defined]
            for each in (layer.keys, layer.values)
        )
        assert kv_bytes == sizes[-1]
    assert sizes[1] == share * sizes[0]


@pytest.mark.parametrize(
    ("opening", "complaint"),
    [
        (CacheSpec(0, 8, Sampling()), "prompt of 0"),
        (CacheSpec(9, 8, Sampling()), "prompt of 9"),
        (CacheSpec(4, 513, Sampling()), "context of 512"),
        (CacheSpec(4, 8, None), "sampling parameters"),
    ],
)
def test_a_cache_that_cannot_be_served_is_malformed(
    checkpoint: Checkpoint, opening: CacheSpec, complaint: str
) -> None:
    with pytest.raises(Malformed, match=complaint):
        checkpoint.engine().open_cache(KEY, opening)


def test_a_cache_is_opened_once(engine: ShardEngine) -> None:
    with pytest.raises(Malformed, match="open already"):
        engine.open_cache(KEY, spec(4, 64))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"position": 5, "truncate_to": 5}, "after 4 rows"),
        ({"position": 4, "truncate_to": 3}, "keep 3"),
        ({"rows": 2}, "width"),
        ({"rows": 62}, "62 rows"),
        ({"width": 48}, "width 48"),
        ({"dtype": DType.F32}, "F32"),
    ],
)
def test_a_frame_that_does_not_belong_is_malformed_and_changes_nothing(
    engine: ShardEngine, changes: dict[str, Any], complaint: str
) -> None:
    run_chain([engine], 0, [1, 2, 3, 4])
    before = kv_rows(engine, 4)
    with pytest.raises(Malformed, match=complaint):
        engine.step(KEY, frame(engine, 4, [5], **changes))
    assert engine.rows(KEY) == 4
    assert all(torch.equal(a, b) for a, b in zip(kv_rows(engine, 4), before, strict=True))


def test_a_frame_of_a_sender_with_other_numerics_is_computed_as_any_other(engine: ShardEngine) -> None:
    run_chain([engine], 0, [1, 2, 3, 4])
    body, _ = engine.step(KEY, frame(engine, 4, [5]))
    again, _ = engine.step(KEY, frame(engine, 4, [5], numerics=Numerics.FAST))
    assert bytes(again) == bytes(body)


def test_a_frame_for_a_closed_cache_is_malformed(engine: ShardEngine) -> None:
    engine.close_cache(KEY)
    with pytest.raises(Malformed, match="not open"):
        engine.step(KEY, frame(engine, 0, [1, 2, 3, 4]))


def test_a_token_outside_the_vocabulary_is_malformed(engine: ShardEngine) -> None:
    with pytest.raises(Malformed, match="token 97 in a vocabulary of 97"):
        engine.step(KEY, frame(engine, 0, [1, 2, 3, 97]))


def test_a_body_of_another_length_is_malformed(checkpoint: Checkpoint) -> None:
    last = checkpoint.engine(LayerRange(2, 3))
    last.open_cache(KEY, spec(1, 8))
    with pytest.raises(Malformed, match="width"):
        last.step(KEY, frame(last, 0, [1], bytes(94)))


@pytest.mark.parametrize("kv", KV_KINDS)
def test_rows_that_are_not_finite_draw_no_token(checkpoint: Checkpoint, kv: str) -> None:
    last = checkpoint.engine(LayerRange(2, 3), kv=kv)
    last.open_cache(KEY, spec(1, 8))
    with pytest.raises(Malformed, match="not finite"):
        last.step(KEY, frame(last, 0, [1], bytes([0xC0, 0x7F]) * 48))


def test_what_is_wrong_with_one_frame_of_a_shared_step_harms_no_other(checkpoint: Checkpoint) -> None:
    last, good = checkpoint.engine(LayerRange(2, 3)), (SessionId("0f" * 16), 3)
    for key in (KEY, good):
        last.open_cache(key, spec(1, 8))
    row = frame(last, 0, [1], bytes(range(96)))
    (_, alone), *_ = last.step_together([(good, row)])
    not_finite = frame(last, 0, [1], bytes([0xC0, 0x7F]) * 48)
    results = last.step_together([(KEY, not_finite), (good, row), (good, row), ((SESSION, 9), row)])
    assert [type(result) for result in results] == [Malformed, tuple, Malformed, Malformed]
    assert results[1] == (b"", alone)


@pytest.mark.parametrize("kv", KV_KINDS)
def test_rows_that_are_not_finite_go_to_no_other_stage_and_are_not_kept(
    checkpoint: Checkpoint, kv: str
) -> None:
    middle, good = checkpoint.engine(LayerRange(1, 2), kv=kv), (SessionId("0f" * 16), 3)
    for key in (KEY, good):
        middle.open_cache(key, spec(1, 8))
    row = frame(middle, 0, [1], bytes(range(96)))
    (alone, _), *_ = middle.step_together([(good, row)])
    expected = bytes(alone)
    for number in ([0xC0, 0x7F], [0x80, 0x7F], [0x80, 0xFF]):
        spoilt = frame(middle, 0, [1], bytes(number) + bytes(94))
        bad, well = middle.step_together([(KEY, spoilt), (good, row)])
        assert isinstance(bad, Malformed)
        assert not isinstance(well, WeftError)
        assert bytes(well[0]) == expected
        assert (middle.rows(KEY), middle.rows(good)) == (0, 1)


def test_a_trial_of_a_layer_keeps_nothing_and_changes_nothing(engine: ShardEngine) -> None:
    run_chain([engine], 0, [1, 2, 3, 4])
    before = kv_rows(engine, 4)
    for rows in (1, 3, 32):
        step = engine.trial(rows)
        for layer in range(3):
            step(layer)
    assert all(torch.equal(a, b) for a, b in zip(kv_rows(engine, 4), before, strict=True))


def test_only_a_frame_that_asks_draws_a_token(engine: ShardEngine) -> None:
    assert run_chain([engine], 0, [1, 2, 3, 4], sample=False) is None
    assert run_chain([engine], 4, [5]) is not None


def test_every_layer_is_told_while_the_step_runs(engine: ShardEngine) -> None:
    told: list[int] = []
    engine.step(KEY, frame(engine, 0, [1, 2, 3, 4]), lambda: told.append(engine.rows(KEY)))
    assert told == [0, 0, 0]
    assert engine.rows(KEY) == 4


def test_sessions_do_not_touch_each_other(checkpoint: Checkpoint) -> None:
    engine = checkpoint.engine()
    alone, beside = (SESSION, 0), (SessionId("0f" * 16), 3)
    engine.open_cache(alone, spec(4, 64))
    engine.step(alone, frame(engine, 0, [1, 2, 3, 4]))
    before = kv_rows(engine, 4)
    engine.open_cache(beside, spec(4, 64))
    engine.step(beside, frame(engine, 0, [9, 8, 7, 6]))
    assert all(torch.equal(a, b) for a, b in zip(kv_rows(engine, 4), before, strict=True))


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("holder", [bytes, bytearray, lambda body: memoryview(bytearray(b"!" + body))[1:]])
def test_a_body_may_be_any_bytes_and_is_not_kept(checkpoint: Checkpoint, dtype: str, holder: Any) -> None:
    first, rest = checkpoint.engine(LayerRange(0, 1), dtype), checkpoint.engine(LayerRange(1, 3), dtype)
    for engine in (first, rest):
        engine.open_cache(KEY, spec(4, 64))
    out, _ = first.step(KEY, frame(first, 0, [1, 2, 3, 4]))
    assert len(out) == 4 * 48 * first_item_bytes(dtype)
    body = holder(bytes(out))
    _, token = rest.step(KEY, frame(rest, 0, [1, 2, 3, 4], body))
    assert bytes(body) == bytes(out)
    assert token == run_chain([opened(checkpoint.engine(dtype=dtype))], 0, [1, 2, 3, 4])


def first_item_bytes(dtype: str) -> int:
    return {"bf16": 2, "f32": 4}[dtype]


def opened(engine: ShardEngine) -> ShardEngine:
    engine.open_cache(KEY, spec(4, 64))
    return engine


def test_what_was_loaded_names_its_bytes_and_arithmetic(checkpoint: Checkpoint) -> None:
    exact, fast = checkpoint.engine().loaded, checkpoint.engine(numerics="fast").loaded
    assert exact.is_exact
    assert exact.numerics_class.startswith("exact/bf16/cpu/")
    assert exact.resident_bytes == checkpoint.config.range_bytes(checkpoint.config.whole, "bf16")
    assert not fast.is_exact
    assert fast.numerics_class.startswith("fast/bf16/cpu/")
    assert len(exact.numerics_class) <= 128


def test_shards_of_one_model_have_one_numerics_class(checkpoint: Checkpoint) -> None:
    classes = {checkpoint.engine(LayerRange(start, 3)).loaded.numerics_class for start in range(3)}
    assert len(classes) == 1


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_fast_numerics_give_the_tokens_of_exact_ones_in_f32(tmp_path: Path, family: str) -> None:
    checkpoint = save_checkpoint(tmp_path, family)
    drawn = []
    for numerics in ("fast", "exact"):
        engine = checkpoint.engine(dtype="f32", numerics=numerics)
        engine.open_cache(KEY, spec(130, 160))
        token = run_chain([engine], 0, [(3 * index) % 97 for index in range(130)])
        tokens = [token]
        for position in range(130, 150):
            token = run_chain([engine], position, [token or 0])
            tokens.append(token)
        drawn.append(tokens)
    assert drawn[0] == drawn[1]
