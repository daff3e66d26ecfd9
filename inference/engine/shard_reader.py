"""Reads a range's tensors, and its products in the form that their kernel takes: quantised here, or as they were kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from inference.engine.linear import Kernel, Weight, as_wanted, join
from inference.engine.quantised_folder import QuantisedFolder
from inference.model.config import ModelConfig
from inference.model.weights import RangeReader
from protocols.placement import LayerRange
from protocols.seams import TensorFile


class ShardReader(RangeReader):
    """`kept` None: everything is quantised anew."""

    def __init__(
        self,
        config: ModelConfig,
        layer_range: LayerRange,
        tensors: Sequence[TensorFile],
        dtype: str,
        on_progress: Callable[[int, int], None],
        kept: QuantisedFolder | None = None,
    ) -> None:
        super().__init__(config, layer_range, tensors, dtype, on_progress)
        self._kept = kept
        self._form = dtype

    def read_product(self, kernel: Kernel, *names: str) -> Weight:
        """The weight of one product out of tensors that lie one below the other."""
        if not kernel.is_quantised:
            return self.read(names[0]) if len(names) == 1 else self.read_joined(*names)
        # One by one: joined in 16 bit they would take four times what they take afterwards.
        return join([self._quantised(name, kernel) for name in names])

    def _quantised(self, name: str, kernel: Kernel) -> Weight:
        content = self.content(name)
        if self._kept is None or not content:
            return as_wanted(self.read(name), kernel)
        outputs, inputs = self.shape(name)
        weight: Weight | None = self._kept.recall(content, self._form, (outputs, inputs))
        if weight is not None:
            self.pass_over(name)
            return weight
        weight = as_wanted(self.read(name), kernel)
        assert not isinstance(weight, torch.Tensor)
        self._kept.keep(content, weight)
        return weight
