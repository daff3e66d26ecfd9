"""The end of a model: the last norm, the head, and the draw of a token for each row that asks for one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.engine.device import HOST, Device
from inference.engine.numerics.exactness import RowPlan
from inference.engine.numerics.selftest import Arithmetic, find_head_rows
from inference.engine.sampling.sampling import Draw, Drawn, draw_all
from inference.model.blocks import Linear, joined, padded, rms_norm
from inference.model.threads import threads_for
from protocols.errors import Malformed


class Head:
    """With exact numerics a row has the logits, and so the token, that it has alone."""

    def __init__(
        self,
        norm: Tensor,
        linear: Linear,
        eps: float,
        dtype: str,
        arithmetic: Arithmetic,
        device: Device = HOST,
    ) -> None:
        self._norm = norm
        self._linear = linear
        self._eps = eps
        self._device = device
        self._lone = RowPlan((arithmetic.rows.lone,))
        self._rows = find_head_rows(linear, len(norm), dtype, arithmetic)

    def logits(self, x: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocabulary] in float32."""
        if self._rows is None:
            return torch.cat([self._outputs(row, self._lone) for row in torch.split(x, 1)])
        return self._outputs(x, self._rows)

    def tokens(self, x: Tensor, draws: Sequence[Draw]) -> list[Drawn | Malformed]:
        """One token for each row of x [rows, hidden], by the draw that stands in its place."""
        return draw_all(self._device.fetched(self.logits(x)).numpy(), draws)

    def _outputs(self, x: Tensor, rows: RowPlan) -> Tensor:
        whole = padded([x], rows.padded(len(x)))
        blocks = rows.blocks(len(x))
        with threads_for(len(whole)):
            parts = [self._linear(rms_norm(whole[block], self._norm, self._eps)) for block in blocks]
        return joined(parts)[: len(x)].float()
