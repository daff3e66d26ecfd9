"""Ranks with a slice each say together what one engine says with all of it; here as threads, with sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.engine.engine import ShardEngine
from inference.engine.memory.kv_cache import KvBudget
from inference.engine.numerics.selftest import Arithmetic, find_arithmetic
from inference.engine.parallel.slices import part_config
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

PROMPT = [(7 * at + at * at) % 97 for at in range(140)]
BIASED = {"llama": {"attention_bias": True, "mlp_bias": True}}


def sliced(
    checkpoint: Checkpoint, ranks: ThreadRanks, arithmetic: Arithmetic, dtype: str = "f32"
) -> ShardEngine:
    config = checkpoint.config
    engine = ShardEngine(
        config, config.whole, dtype, "exact", checkpoint.tensors, KvBudget(64 * MIB),
        ranks=ranks, arithmetic=arithmetic,
    )  # fmt: skip
    engine.open_cache(KEY, spec(len(PROMPT), 200))
    return engine


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
    arithmetic = find_arithmetic(part_config(checkpoint.config, of), "f32", "exact")

    def say(ranks: ThreadRanks) -> list[int]:
        engine = sliced(checkpoint, ranks, arithmetic)
        if ranks.own.leads:
            return greedy(engine)
        follow(engine, expected)
        return expected

    assert together(of, say) == [expected] * of
