"""The contract of numerics: logits stay within their tolerance of those in f32, and exactness is found where it is promised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.engine.numerics.contract import CONTRACTS
from inference.model.precision import PRECISIONS
from tests.inference.engine.checkpoints import KEY, Checkpoint, frame, save_checkpoint, spec

PROMPT = [(7 * index + index * index) % 97 for index in range(40)]


def logits(checkpoint: Checkpoint, dtype: str, numerics: str) -> torch.Tensor:
    engine = checkpoint.engine(dtype=dtype, numerics=numerics)
    assert CONTRACTS[dtype, numerics].is_batch_invariant == engine.arithmetic.is_exact
    found: list[torch.Tensor] = []
    head = engine.head.logits

    def watched(x: torch.Tensor) -> torch.Tensor:
        found.append(head(x))
        return found[-1]

    engine.head.logits = watched  # type: ignore[method-assign]
    engine.open_cache(KEY, spec(len(PROMPT), len(PROMPT) + 1))
    engine.step(KEY, frame(engine, 0, PROMPT))
    return found[0]


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_logits_are_as_near_to_those_in_f32_as_promised(tmp_path: Path, numerics: str) -> None:
    checkpoint = save_checkpoint(tmp_path, hidden_size=256, intermediate_size=640)
    exact = logits(checkpoint, "f32", "exact")
    for dtype in PRECISIONS:
        off = (logits(checkpoint, dtype, numerics) - exact).norm() / exact.norm()
        assert off < CONTRACTS[dtype, numerics].logit_tolerance


def test_every_dtype_has_a_contract_for_both_kinds_of_numerics() -> None:
    assert set(CONTRACTS) == {(dtype, numerics) for dtype in PRECISIONS for numerics in ("exact", "fast")}
    for (_, numerics), contract in CONTRACTS.items():
        assert contract.is_batch_invariant == contract.replays_as_decoded == (numerics == "exact")
