"""Experts: what each row comes to is the weighed sum of those chosen for it, whichever rows go with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.experts import ExpertFfn, make_router
from inference.engine.kernels.linear import Kernel, make_linear
from inference.engine.numerics.exactness import RowPlan
from inference.model.blocks import DenseFfn, padded
from inference.model.families import ExpertNames, Experts
from tests.inference.engine.checkpoints import save_checkpoint

HIDDEN, FFN, COUNT = 40, 24, 6
PLANS = (RowPlan(), RowPlan((4, 8)), RowPlan((16,)))


def mixture(
    plan: RowPlan, asked: list[int] | None = None, **changes: bool
) -> tuple[ExpertFfn, Tensor, list[Tensor]]:
    """With the router's weight, and gate, up and down of every expert in turn."""
    torch.manual_seed(5)
    router = torch.randn(COUNT, HIDDEN)
    weights = [
        torch.randn(rows, columns) / 5
        for _ in range(COUNT)
        for rows, columns in ((FFN, HIDDEN),) * 2 + ((HIDDEN, FFN),)
    ]

    def expert(index: int) -> DenseFfn:
        gate, up, down = weights[3 * index : 3 * index + 3]
        dense = DenseFfn(make_linear(torch.cat([gate, up]), Kernel.PLAIN), make_linear(down, Kernel.PLAIN))

        def gate_up(x: Tensor) -> Tensor:
            if asked is not None:
                asked.append(index)
            return dense.gate_up(x)

        return DenseFfn(gate_up, dense.down)

    design = Experts(COUNT, 2, FFN, changes.get("is_normalised", True), ExpertNames())
    return (
        ExpertFfn(design, make_linear(router, Kernel.PLAIN), [expert(index) for index in range(COUNT)], plan),
        router,
        weights,
    )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("is_normalised", [True, False])
def test_a_row_comes_to_the_weighed_sum_of_its_experts(plan: RowPlan, is_normalised: bool) -> None:
    ffn, router, weights = mixture(plan, is_normalised=is_normalised)
    x = torch.randn(21, HIDDEN)
    found = ffn(padded([x], plan.padded(21)), 21)
    for row, y in zip(x, found, strict=False):
        scores = (router @ row).softmax(0)
        best = scores.argsort(descending=True)[:2].tolist()
        total = sum(scores[expert] for expert in best) if is_normalised else 1.0
        expected = torch.zeros(HIDDEN)
        for expert in best:
            gate, up, down = weights[3 * expert : 3 * expert + 3]
            expected += scores[expert] / total * (down @ (functional.silu(gate @ row) * (up @ row)))
        assert torch.allclose(y, expected, atol=1e-5)
    assert not found[21:].any()


@pytest.mark.parametrize("rows", [1, 2, 5, 21])
def test_rows_come_to_the_same_alone_and_together(rows: int) -> None:
    plan = RowPlan((4, 8))
    ffn, _, _ = mixture(plan)
    x = torch.randn(rows, HIDDEN)
    together = ffn(padded([x], plan.padded(rows)), rows)[:rows]
    alone = torch.cat([ffn(padded([row[None]], 4), 1)[:1] for row in x])
    assert torch.allclose(together, alone, atol=1e-6)


def test_only_the_experts_of_real_rows_are_asked() -> None:
    asked: list[int] = []
    ffn, router, _ = mixture(RowPlan((4,)), asked)
    x = torch.randn(2, HIDDEN)
    ffn(padded([x], 4), 2)
    expected = (x @ router.T).topk(2).indices.unique().tolist()
    assert asked == expected


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_router_is_not_quantised(tmp_path: Path, dtype: str) -> None:
    checkpoint = save_checkpoint(tmp_path, "qwen3_moe")
    x = torch.randn(5, checkpoint.config.hidden, generator=torch.Generator().manual_seed(1)).bfloat16()
    scores = []
    for name in ("bf16", dtype):
        ffn = checkpoint.engine(dtype=name)._layers[0]._parts.ffn
        assert isinstance(ffn, ExpertFfn)
        scores.append(ffn._router(x))
    assert torch.equal(*scores)


@pytest.mark.parametrize("hidden", [24, 40, 2048])
def test_a_row_has_the_scores_that_it_has_alone(hidden: int) -> None:
    torch.manual_seed(hidden)
    weight, x = torch.randn(7, hidden).bfloat16(), torch.randn(37, hidden).bfloat16()
    router = make_router(weight, RowPlan((1, 4)))
    together = router(x)
    assert torch.equal(together, torch.cat([router(row[None].clone()) for row in x]))
    assert torch.allclose(together, make_router(weight, RowPlan())(x), rtol=0.02, atol=0.5)
