"""The contract of numerics: logits stay within their tolerance of those in f32, and exactness is found where it is promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.engine.numerics.contract import CONTRACTS
from inference.model.precision import KV_KINDS, PRECISIONS
from tests.inference.engine.checkpoints import FAMILY_CHANGES, KEY, Checkpoint, frame, save_checkpoint, spec

PROMPT = [(7 * index + index * index) % 97 for index in range(40)]
DECODED = PROMPT[5:13]


def logits(checkpoint: Checkpoint, dtype: str, numerics: str, kv: str = "model") -> torch.Tensor:
    """After the prompt, and after each of some rows that are decoded."""
    engine = checkpoint.engine(dtype=dtype, numerics=numerics, kv=kv)
    assert CONTRACTS[dtype, numerics].is_batch_invariant == engine.arithmetic.is_exact
    found: list[torch.Tensor] = []
    head = engine.head.logits

    def watched(x: torch.Tensor) -> torch.Tensor:
        found.append(head(x))
        return found[-1]

    engine.head.logits = watched  # type: ignore[method-assign]
    engine.open_cache(KEY, spec(len(PROMPT), len(PROMPT) + len(DECODED)))
    engine.step(KEY, frame(engine, 0, PROMPT))
    for at, token in enumerate(DECODED, len(PROMPT)):
        engine.step(KEY, frame(engine, at, [token]))
    return torch.cat(found)


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_logits_are_as_near_to_those_in_f32_as_promised(tmp_path: Path, numerics: str) -> None:
    checkpoint = save_checkpoint(tmp_path, hidden_size=256, intermediate_size=640)
    exact = logits(checkpoint, "f32", "exact")
    for dtype in PRECISIONS:
        off = (logits(checkpoint, dtype, numerics) - exact).norm() / exact.norm()
        assert off < CONTRACTS[dtype, numerics].logit_tolerance


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_over_caches_in_8_bit_they_are_as_near_to_those_over_caches_as_they_are(
    tmp_path: Path, numerics: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, hidden_size=256, intermediate_size=640)
    for dtype in PRECISIONS:
        plain, rounded = (logits(checkpoint, dtype, numerics, kv) for kv in KV_KINDS)
        off = (rounded - plain).norm() / plain.norm()
        assert 0 < off < CONTRACTS[dtype, numerics].kv8_tolerance


@pytest.mark.parametrize("family", [name for name in FAMILY_CHANGES if name not in {"qwen3_moe", "mixtral"}])
def test_so_they_are_in_every_family_but_those_whose_rows_may_go_to_other_experts(
    tmp_path: Path, family: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, family, hidden_size=256, intermediate_size=640)
    plain, rounded = (logits(checkpoint, "f32", "exact", kv) for kv in KV_KINDS)
    assert (rounded - plain).norm() < CONTRACTS["f32", "exact"].kv8_tolerance * plain.norm()


def test_every_dtype_has_a_contract_for_both_kinds_of_numerics() -> None:
    assert set(CONTRACTS) == {(dtype, numerics) for dtype in PRECISIONS for numerics in ("exact", "fast")}
    for (_, numerics), contract in CONTRACTS.items():
        assert contract.is_batch_invariant == contract.replays_as_decoded == (numerics == "exact")
