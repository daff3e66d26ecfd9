"""The tensors of a layer range out of safetensors files: only those wanted, one file open and one tensor held at a time.

Every tensor is checked against the configuration before it is read. The caller packs each as it comes, so that at no time
more than one lies in memory twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inference.model.config import ITEM_BYTES, ModelConfig
from protocols.errors import UserError
from protocols.placement import LayerRange
from protocols.seams import TensorFile

TORCH_DTYPES: Final = {"f32": torch.float32, "bf16": torch.bfloat16}
_READABLE: Final = {"F32", "BF16", "F16"}


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
        self._total_bytes = config.range_bytes(layer_range, dtype)
        self._item_bytes = ITEM_BYTES[dtype]
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
        self._done_bytes += tensor.numel() * self._item_bytes
        self._on_progress(min(self._done_bytes, self._total_bytes), self._total_bytes)
        return tensor

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
        return tensor

    def _close(self) -> None:
        if self._open_file is not None:
            self._open_file.__exit__(None, None, None)
            self._open_file, self._open_path = None, ""
