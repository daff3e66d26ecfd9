"""Ranks with a slice each say together what one engine says with all of it; here as threads, with sums by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inference.engine.device import HOST, Device
from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.numerics.contract import CONTRACTS
from inference.engine.numerics.selftest import Arithmetic
from inference.engine.parallel.leading import sliced_arithmetic
from inference.model.weights import TORCH_DTYPES
from protocols.errors import WeftError
from protocols.ids import SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec
from protocols.session import Sampling
from tests.inference.engine.checkpoints import (
    FAMILY_CHANGES,
    KEY,
    MIB,
    Checkpoint,
    frame,
    run_chain,
    save_checkpoint,
    spec,
)
from tests.inference.engine.parallel.threads import ThreadRanks, together
from tests.inference.engine.test_device import PAGED

PROMPT = [(7 * at + at * at) % 97 for at in range(140)]
BIASED = {"llama": {"attention_bias": True, "mlp_bias": True}}


def sliced(
    checkpoint: Checkpoint,
    ranks: ThreadRanks,
    arithmetic: Arithmetic,
    dtype: str = "f32",
    layer_range: LayerRange | None = None,
    budget: KvBudget | None = None,
    device: Device = HOST,
) -> ShardEngine:
    config = checkpoint.config
    return ShardEngine(
        config, layer_range or config.whole, dtype, "exact", checkpoint.tensors, budget or KvBudget(64 * MIB),
        device=device, ranks=ranks, arithmetic=arithmetic,
    )  # fmt: skip


def whole(checkpoint: Checkpoint, dtype: str = "f32") -> ShardEngine:
    engine = checkpoint.engine(dtype=dtype)
    engine.open_cache(KEY, spec(len(PROMPT), 200))
    return engine


def greedy(engine: ShardEngine, count: int = 6) -> list[int]:
    for start in (0, 128):
        token = run_chain([engine], start, PROMPT[start : start + 128])
    said: list[int] = []
    while len(said) < count:
        assert token is not None
        said.append(token)
        token = run_chain([engine], engine.rows(KEY), [token])
    return said


def follow(engine: ShardEngine, said: list[int]) -> None:
    """As `greedy`, for a rank that draws nothing."""
    for start in (0, 128):
        engine.follow([(KEY, frame(engine, start, PROMPT[start : start + 128]))])
    for token in said:
        engine.follow([(KEY, frame(engine, engine.rows(KEY), [token]))])


@pytest.mark.parametrize("of", [2, 4])
@pytest.mark.parametrize("family", [*FAMILY_CHANGES, "biased"])
def test_slices_say_what_the_whole_says(tmp_path: Path, family: str, of: int) -> None:
    changes = {"attention_bias": True, "mlp_bias": True} if family == "biased" else {}
    checkpoint = save_checkpoint(
        tmp_path, "llama" if family == "biased" else family, num_key_value_heads=4, **changes
    )
    expected = greedy(whole(checkpoint))
    arithmetic = sliced_arithmetic(checkpoint.config, "f32", "exact", of)

    def say(ranks: ThreadRanks) -> list[int]:
        engine = sliced(checkpoint, ranks, arithmetic)
        engine.open_cache(KEY, spec(len(PROMPT), 200))
        if ranks.own.leads:
            return greedy(engine)
        follow(engine, expected)
        return expected

    assert together(of, say) == [expected] * of


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
def test_slices_on_devices_of_their_own_say_what_the_whole_says(tmp_path: Path, family: str) -> None:
    checkpoint = save_checkpoint(tmp_path, family, num_key_value_heads=4)
    expected = greedy(whole(checkpoint))
    arithmetic = sliced_arithmetic(checkpoint.config, "f32", "exact", 2, PAGED)
    assert not arithmetic.is_exact
    assert arithmetic.numerics_class.endswith("/tp2")

    def say(ranks: ThreadRanks) -> list[int]:
        engine = sliced(checkpoint, ranks, arithmetic, device=PAGED)
        engine.open_cache(KEY, spec(len(PROMPT), 200))
        if ranks.own.leads:
            return greedy(engine)
        follow(engine, expected)
        return expected

    assert together(2, say) == [expected] * 2


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("f32", 1e-5), ("bf16", 0.05), ("int8", 0.15), ("int4", 0.8)]
)
def test_rows_of_slices_are_those_of_the_whole_within_the_contract_and_the_same_on_all_ranks(
    tmp_path: Path, dtype: str, tolerance: float
) -> None:
    assert tolerance == CONTRACTS[dtype, "exact"].logit_tolerance
    checkpoint = save_checkpoint(tmp_path, intermediate_size=256, head_dim=32)
    layer_range, torch_dtype = LayerRange(0, 2), TORCH_DTYPES[dtype]
    arithmetic = sliced_arithmetic(checkpoint.config, dtype, "exact", 2)

    def rows_of(engine: ShardEngine) -> torch.Tensor:
        engine.open_cache(KEY, spec(9, 64))
        body, _ = engine.step(KEY, frame(engine, 0, PROMPT[:9]))
        return torch.frombuffer(bytearray(body), dtype=torch_dtype).float()

    def of_rank(ranks: ThreadRanks) -> torch.Tensor:
        engine = sliced(checkpoint, ranks, arithmetic, dtype, layer_range)
        if ranks.own.leads:
            return rows_of(engine)
        engine.open_cache(KEY, spec(9, 64))
        seen: list[torch.Tensor] = []
        engine._layers[-1].forward = remembered(engine._layers[-1].forward, seen)  # type: ignore[method-assign]
        engine.follow([(KEY, frame(engine, 0, PROMPT[:9]))])
        return seen[0][:9].flatten().float()

    expected = rows_of(checkpoint.engine(layer_range, dtype))
    first, second = together(2, of_rank)
    assert torch.equal(first, second)
    assert (first - expected).norm() < tolerance * expected.norm()


def remembered(forward: Callable[..., torch.Tensor], seen: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
    def remembering(*arguments: object) -> torch.Tensor:
        seen.append(forward(*arguments))
        return seen[-1]

    return remembering


@pytest.mark.parametrize(
    ("family", "of", "kv"),
    [("llama", 2, "model"), ("llama", 4, "model"), ("mixtral", 2, "model"), ("llama", 2, "int8")],
)
def test_with_exact_numerics_a_row_has_the_bits_that_it_has_alone_however_many_ranks(
    tmp_path: Path, family: str, of: int, kv: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, family, num_key_value_heads=4)
    layer_range, sessions = LayerRange(0, 2), [(SessionId(f"{number:032x}"), 0) for number in range(5)]
    arithmetic = sliced_arithmetic(checkpoint.config, "bf16", "exact", of, kv=kv)
    assert arithmetic.is_exact
    steps = [[(0, PROMPT[at : at + 9])] for at in range(5)]
    batches = [
        [[at] for at in range(5)],  # one by one
        [list(range(5))],  # all at once
    ]

    def of_rank(ranks: ThreadRanks) -> list[list[bytes]]:
        found = []
        for batch in batches:
            engine = sliced(checkpoint, ranks, arithmetic, "bf16", layer_range, KvBudget(64 * MIB, kv=kv))
            for key in sessions:
                engine.open_cache(key, spec(9, 64))
            rows = {}
            for together_now in batch:
                work = [
                    (sessions[at], frame(engine, *step, session=sessions[at][0]))
                    for at in together_now
                    for step in steps[at]
                ]
                if not ranks.own.leads:
                    engine.follow(work)
                    continue
                for at, result in zip(together_now, engine.step_together(work), strict=True):
                    assert not isinstance(result, WeftError)
                    rows[at] = bytes(result[0])
            found.append([rows[at] for at in sorted(rows)])
        return found

    alone, at_once = together(of, of_rank)[0]
    assert len(alone) == 5
    assert alone == at_once


def test_a_block_that_is_unsound_at_one_rank_is_kept_by_none(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path)
    arithmetic = sliced_arithmetic(checkpoint.config, "f32", "exact", 2)
    asked = CacheSpec(128, 160, Sampling(), prefix=(b"one",))
    key = (SessionId("07" * 16), 0)

    def blocks_of(ranks: ThreadRanks) -> list[int]:
        kept = []
        for is_spoilt in (True, False):
            budget = KvBudget(64 * MIB)
            engine = sliced(checkpoint, ranks, arithmetic, budget=budget)
            engine.open_cache(key, asked)
            if is_spoilt and not ranks.own.leads:
                engine._opened[key].kv.copied = lambda *_: torch.full((1,), float("nan"))  # type: ignore[method-assign]
            work = [(key, frame(engine, 0, PROMPT[:128], session=key[0]))]
            if ranks.own.leads:
                engine.step_together(work)
            else:
                engine.follow(work)
            kept.append(len(budget.prefixes))
        return kept

    assert together(2, blocks_of) == [[0, 1], [0, 1]]


def test_the_numerics_class_says_how_many_ranks_there_are(tmp_path: Path) -> None:
    config = save_checkpoint(tmp_path).config
    found = sliced_arithmetic(config, "bf16", "exact", 2)
    assert found.numerics_class.startswith("exact/bf16/cpu/")
    assert found.numerics_class.endswith("/tp2")
    assert sliced_arithmetic(config, "bf16", "fast", 2).numerics_class.startswith("fast/bf16/")
