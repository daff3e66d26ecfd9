"""The tensors of a layer range out of safetensors files: only those wanted, one file open and one tensor held at a time.

Every tensor is checked against the configuration before it is read, and for values that are not finite once it is. The
caller packs each as it comes, so that at no time more than one lies in memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.model.config import ModelConfig
from inference.model.precision import PRECISIONS
from protocols.errors import UserError
from protocols.placement import LayerRange
from protocols.seams import TensorFile

TORCH_DTYPES: Final = {
    name: torch.float32 if precision.row_bytes == 4 else torch.bfloat16
    for name, precision in PRECISIONS.items()
}
"""Of rows, and of tensors as they are read: those of products are quantised afterwards."""
_READABLE: Final = {"F32", "BF16", "F16"}


def is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity in it, for a fraction of what copying it takes."""
    least, most = torch.aminmax(tensor)  # either is NaN if anything is
    return bool(least.isfinite() and most.isfinite())


class RangeReader:
    """Reads the tensors of one range in any order; `on_progress(done_bytes, total_bytes)` after each."""

    def __init__(
        self,
        config: ModelConfig,
        layer_range: LayerRange,
        tensors: Sequence[TensorFile],
        dtype: str,
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Raises `UserError` if a tensor of the range is not among `tensors`."""
        self._config = config
        self._dtype = TORCH_DTYPES[dtype]
        self._files = {tensor.name: tensor for tensor in tensors}
        self._on_progress = on_progress
        self._done_bytes = 0
        # As they are read: what is quantised afterwards takes less.
        self._total_bytes = config.range_bytes(layer_range, "f32" if dtype == "f32" else "bf16")
        self._item_bytes = PRECISIONS[dtype].row_bytes
        self._open_path = ""
        self._open_file: Any = None
        missing = [name for name in config.tensor_names(layer_range) if name not in self._files]
        if missing:
            raise UserError(
                f"the model lacks {len(missing)} tensors, such as {missing[0]}: download it again"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def read(self, name: str) -> Tensor:
        """The tensor in the shard's type, in memory of its own. Raises `UserError` if it is not what it should be."""
        place = self._files[name]
        try:
            tensor = self._checked(place)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{place.path} cannot be read ({error}): download the model again") from error
        self.pass_over(name)
        return tensor

    def pass_over(self, name: str) -> None:
        """Count the tensor as read, also if what it holds came from elsewhere."""
        self._done_bytes += math.prod(self.shape(name)) * self._item_bytes
        self._on_progress(min(self._done_bytes, self._total_bytes), self._total_bytes)

    def shape(self, name: str) -> tuple[int, ...]:
        """What the tensor must have."""
        return self._config.expected_shape(name)

    def content(self, name: str) -> str:
        """What names the bytes of the tensor wherever they lie; empty if they have not been hashed."""
        return self._files[name].content

    def read_joined(self, *names: str) -> Tensor:
        """Several tensors one below the other."""
        rows = [self._config.expected_shape(name)[0] for name in names]
        joined = torch.empty(sum(rows), *self._config.expected_shape(names[0])[1:], dtype=self._dtype)
        for name, part in zip(names, torch.split(joined, rows), strict=True):
            part.copy_(self.read(name))
        return joined

    def _checked(self, place: TensorFile) -> Tensor:
        if place.path != self._open_path:
            self._close()
            self._open_file = safe_open(place.path, framework="pt")
            self._open_path = place.path
        view = self._open_file.get_slice(place.key)
        shape, expected = tuple(view.get_shape()), self._config.expected_shape(place.name)
        if shape != expected:
            raise UserError(
                f"tensor {place.name} has shape {shape}, and config.json says {expected}: download the model again"
            )
        if view.get_dtype() not in _READABLE:
            raise UserError(
                f"tensor {place.name} has type {view.get_dtype()}, and weft reads {', '.join(sorted(_READABLE))}:"
                " choose an unquantised model"
            )
        # A copy, also where the type is right: pages of a mapped file vanish if the file is replaced under us.
        tensor: Tensor = self._open_file.get_tensor(place.key).to(self._dtype, copy=True)
        if not is_finite(tensor):
            raise UserError(
                f"tensor {place.name} has values that are not finite in this type: download the model again"
            )
        return tensor

    def _close(self) -> None:
        if self._open_file is not None:
            self._open_file.__exit__(None, None, None)
            self._open_file, self._open_path = None, ""
