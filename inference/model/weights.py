"""The tensors of a layer range out of safetensors files: only those wanted, and one file open at a time.

Every tensor is checked against the configuration before it is read, and for values that are not finite once it is. It is
read to where it stays; of one that has another type, or that is quantised, no more than a piece is held beside. The
caller packs each as it comes, so that at no time more than one lies in memory twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor

from inference.model.config import ModelConfig
from inference.model.precision import PRECISIONS
from inference.model.stored_tensors import StoredTensors
from mesh.state.tensor_file import StoredTensor
from protocols.errors import LocalFault, Malformed, UserError
from protocols.placement import LayerRange
from protocols.seams import TensorFile

TORCH_DTYPES: Final = {
    name: torch.float32 if precision.row_bytes == 4 else torch.bfloat16
    for name, precision in PRECISIONS.items()
}
"""Of rows, and of tensors as they are read: those of products are quantised afterwards."""
_STORED: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_PIECE_ITEMS: Final = 1 << 20  # converted at a time


def is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity in it, for a fraction of what copying it takes."""
    least, most = torch.aminmax(tensor)  # either is NaN if anything is
    return bool(least.isfinite() and most.isfinite())


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor: what is written there is in the tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data


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
        self._open_file: StoredTensors | None = None
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
        tensor = torch.empty(self.shape(name), dtype=self._dtype)
        self._read_whole(name, tensor)
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
        rows = [self.shape(name)[0] for name in names]
        joined = torch.empty(sum(rows), *self.shape(names[0])[1:], dtype=self._dtype)
        for name, part in zip(names, torch.split(joined, rows), strict=True):
            self._read_whole(name, part)
        return joined

    def read_rows(self, name: str, at_once: int) -> Iterator[tuple[slice, Tensor]]:
        """A matrix by as many rows at once, [rows, inputs] each and only until the next are read, and which they are."""
        rows, inputs = self.shape(name)
        piece = torch.empty(min(at_once, rows), inputs, dtype=self._dtype)
        for start in range(0, rows, at_once):
            part = piece[: rows - start]
            self._fill(name, start * inputs, part)
            yield slice(start, start + len(part)), part
        self.pass_over(name)

    def _read_whole(self, name: str, target: Tensor) -> None:
        self._fill(name, 0, target)
        self.pass_over(name)

    def _fill(self, name: str, first: int, target: Tensor) -> None:
        """The items from `first` on, as many as the target takes."""
        place = self._files[name]
        try:
            file = self._opened(place.path)
            stored = file[place.key]
            self._check(name, stored)
            at, flat = 0, target.view(-1)
            for start, count in self._runs(name, first, len(flat)):
                _read_items(file, stored, start, flat[at : at + count])
                at += count
        except Malformed as error:
            raise UserError(f"{place.path} cannot be read ({error}): download the model again") from error
        except LocalFault as error:
            raise UserError(f"{error}: download the model again") from error
        if not is_finite(target):
            raise UserError(
                f"tensor {name} has values that are not finite in this type: download the model again"
            )

    def _stored_shape(self, name: str) -> tuple[int, ...]:
        """What the tensor must have in its file."""
        return self._config.expected_shape(name)

    def _runs(self, _name: str, first: int, count: int) -> Iterable[tuple[int, int]]:
        """Where items of the tensor as it is read lie in the file's: the first of each run, and how many lie in a row."""
        return ((first, count),)

    def _check(self, name: str, stored: StoredTensor) -> None:
        expected = self._stored_shape(name)
        if stored.shape != expected:
            raise UserError(
                f"tensor {name} has shape {stored.shape}, and config.json says {expected}:"
                " download the model again"
            )
        if stored.dtype not in _STORED:
            raise UserError(
                f"tensor {name} has type {stored.dtype}, and weft reads {', '.join(_STORED)}:"
                " choose an unquantised model"
            )

    def _opened(self, path: str) -> StoredTensors:
        if self._open_file is None or path != self._open_path:
            self._close()
            self._open_file, self._open_path = StoredTensors(path), path
        return self._open_file

    def _close(self) -> None:
        if self._open_file is not None:
            self._open_file.close()
            self._open_file, self._open_path = None, ""


def _read_items(file: StoredTensors, stored: StoredTensor, first: int, target: Tensor) -> None:
    """Items of the stored tensor from `first` on to a target of one dimension and its own type."""
    dtype = _STORED[stored.dtype]
    if dtype is target.dtype:
        file.read_into(stored, first * dtype.itemsize, bytes_of(target))
        return
    piece = torch.empty(min(_PIECE_ITEMS, len(target)), dtype=dtype)
    for start in range(0, len(target), _PIECE_ITEMS):
        part = piece[: len(target) - start]
        file.read_into(stored, (first + start) * dtype.itemsize, bytes_of(part))
        target[start : start + len(part)] = part
