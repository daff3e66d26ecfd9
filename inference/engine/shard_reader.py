"""Reads a range's tensors, and its products in the form that their kernel takes: quantised here, or as they were kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from inference.engine.device import HOST, Device
from inference.engine.kernels.linear import Kernel, Weight, empty_quantised
from inference.engine.kernels.quantised import Quantised, rows_at_once
from inference.engine.kernels.quantised_folder import QuantisedFolder
from inference.engine.parallel.slices import WHOLE, Slice, part_config, tensor_part
from inference.model.config import ModelConfig
from inference.model.weights import RangeReader
from protocols.placement import LayerRange
from protocols.seams import TensorFile


class ShardReader(RangeReader):
    """`kept` None: everything is quantised anew. Of every tensor the part that is `own` is read; `config` is the whole model's."""

    def __init__(
        self,
        config: ModelConfig,
        layer_range: LayerRange,
        tensors: Sequence[TensorFile],
        dtype: str,
        on_progress: Callable[[int, int], None],
        kept: QuantisedFolder | None = None,
        device: Device = HOST,
        own: Slice = WHOLE,
    ) -> None:
        super().__init__(part_config(config, own.of), layer_range, tensors, dtype, on_progress)
        self._kept = kept
        self._device = device
        self._whole = config
        self._own = own

    def read(self, name: str) -> Tensor:
        return self._device.placed(super().read(name))

    def read_joined(self, *names: str) -> Tensor:
        return self._device.placed(super().read_joined(*names))

    def content(self, name: str) -> str:
        """What names the bytes of the tensor's part wherever they lie; empty if they have not been hashed."""
        content, part = super().content(name), tensor_part(self._whole, name, self._own)
        is_part = math.prod(part.size) < math.prod(self._stored_shape(name))
        return f"{content}-{part.name}" if content and is_part else content

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        return self._whole.expected_shape(name)

    def _runs(self, name: str, first: int, count: int) -> Iterable[tuple[int, int]]:
        if self._own.of == 1:
            return super()._runs(name, first, count)
        return tensor_part(self._whole, name, self._own).runs(first, count)

    def read_product(self, kernel: Kernel, *names: str) -> Weight:
        """The weight of one product out of tensors that lie one below the other."""
        if not kernel.is_quantised:
            return self.read(names[0]) if len(names) == 1 else self.read_joined(*names)
        outputs = [self.shape(name)[0] for name in names]
        joined = empty_quantised(kernel, sum(outputs), self.shape(names[0])[1])
        end = 0
        for name, count in zip(names, outputs, strict=True):
            start, end = end, end + count
            self._fill_quantised(name, joined.part(slice(start, end)))
        return joined

    def _fill_quantised(self, name: str, weight: Quantised) -> None:
        content = self.content(name) if self._kept is not None else ""
        if self._kept is not None and content and self._kept.recall(content, weight):
            self.pass_over(name)
            return
        for rows, wide in self.read_rows(name, rows_at_once(weight.shape[1])):
            weight.part(rows).fill(wide)
        if self._kept is not None and content:
            self._kept.keep(content, weight)
