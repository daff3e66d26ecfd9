"""A mixture of experts: each row through the few that the router chooses for it, weighed and added.

With exact numerics a row's bits must not depend on which rows share its experts: every product runs in blocks of the sizes
that the self-test has compared, and what a row's experts come to is added in the order of the router's choice.

The router is never quantised: next to nothing of a layer, and where it errs a row goes through the wrong weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.numerics.exactness import RowPlan
from inference.model.blocks import DenseFfn, Linear, aligned, joined, padded
from inference.model.families import Experts
from inference.model.threads import on_one_thread


class ExpertFfn:
    """As `DenseFfn`, of one layer of such a model."""

    def __init__(self, design: Experts, router: Linear, experts: Sequence[DenseFfn], plan: RowPlan) -> None:
        self._design = design
        self._router = router
        self._experts = experts
        self._plan = plan

    def __call__(self, x: Tensor, rows: int) -> Tensor:
        """Rows from `rows` on are padding, for which no expert is asked; they come to zero."""
        weights, chosen = routed(self._router(x), self._design)
        found = self._alone(x, chosen[0]) if rows == 1 else self._together(x, chosen[:rows])
        weighed = (found.float() * weights[:rows, :, None]).unbind(1)
        total = weighed[0]
        for each in weighed[1:]:  # one by one: a sum over a dimension may be split by its shape
            total = total + each
        return padded([total.to(x.dtype)], len(x))

    def _alone(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The first row through its experts: [1, chosen, hidden]."""
        lone = x[: self._plan.padded(1)]
        return torch.cat([self._experts[expert](lone, 1)[:1] for expert in chosen.tolist()])[None]

    def _together(self, x: Tensor, chosen: Tensor) -> Tensor:
        """chosen [rows, chosen] -> [rows, chosen, hidden]: all rows of an expert at once, expert by expert."""
        order = chosen.flatten().argsort(stable=True)
        sent = x.index_select(0, order // chosen.shape[1])
        counts = chosen.flatten().bincount(minlength=len(self._experts)).tolist()
        parts = torch.split(sent, counts)
        came = [
            self._through(expert, part)
            for expert, part in zip(self._experts, parts, strict=True)
            if len(part)
        ]
        found = torch.empty_like(sent).index_copy_(0, order, torch.cat(came))
        return found.view(*chosen.shape, -1)

    def _through(self, expert: DenseFfn, part: Tensor) -> Tensor:
        rows = len(part)
        whole = padded([part], self._plan.padded(rows))
        return joined([expert(whole[block], rows) for block in self._plan.blocks(rows)])[:rows]


def make_router(weight: Tensor, plan: RowPlan) -> Linear:
    """hidden -> scores; each row by itself, so that it has the bits that it has alone, where a frame is not taken whole."""
    if not plan.sizes:
        return lambda x: functional.linear(x, weight)
    product = on_one_thread(functional.linear)
    return lambda x: torch.cat([product(aligned(row), weight) for row in torch.split(x, 1)])


def routed(scores: Tensor, design: Experts) -> tuple[Tensor, Tensor]:
    """scores [rows, count] -> the weights of the chosen experts in float32, highest first, and which they are; both
    [rows, chosen]."""
    weights, chosen = scores.softmax(-1, dtype=torch.float32).topk(design.chosen, -1)
    if design.is_normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, chosen
