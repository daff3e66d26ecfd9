"""The tensors of a GGUF file as those of a Hugging Face folder, in bf16, a piece of some rows at a time.

Values are what `gguf.quants` makes of them, rounded to the nearest bf16, to even at the half. What is stored in bf16 comes
through bit by bit. No torch here: the command line imports this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from numpy.typing import NDArray

from inference.model.config import ModelConfig
from inference.model.gguf.architectures import INPUT, OUTPUT, Architecture
from inference.model.gguf.file import GgufFile, GgufTensor
from inference.model.gguf.rope_settings import FACTORS
from protocols.errors import Malformed, UserError

# Files in Q4_0 and in the "K" mixtures have their head in Q6_K.
READABLE: Final = (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_K, Type.Q5_K, Type.Q6_K)
BF16_BYTES: Final = 2
_PIECE_ITEMS: Final = 4 << 20  # 16 MiB in float32, and a few times that while they are unpacked
_SPARE: Final = "attn_rot_embd"  # angles, in files of long ago


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the folder: some rows of one of the file."""

    name: str
    shape: tuple[int, ...]
    source: GgufTensor
    first_row: int
    head_dim: int  # of rows that are ordered for turning neighbours, else 0
    has_one_added: bool

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * BF16_BYTES


def plan_tensors(file: GgufFile, architecture: Architecture, config: ModelConfig) -> list[PlannedTensor]:
    """All tensors of the folder in the order of their use. Raises `Malformed` and `UserError` if the file has others."""
    planned = [_planned(file, architecture, config, name) for name in config.tensor_names(config.whole)]
    used = {tensor.source.name for tensor in planned} | {*FACTORS, OUTPUT if config.tied else INPUT}
    for name in file.tensors:
        if name not in used and _SPARE not in name:
            raise UserError(
                f"{file.path} has a tensor {name[:64]!r}, which no {config.family} has: choose another model"
            )
    return planned


def _planned(file: GgufFile, architecture: Architecture, config: ModelConfig, name: str) -> PlannedTensor:
    wanted, expert = architecture.source_of(name)
    source = file.tensors.get(wanted)
    if source is None:
        raise Malformed(f"it has no tensor {wanted}")
    shape = config.expected_shape(name)
    experts = () if config.design.experts is None or expert is None else (config.design.experts.count,)
    if source.shape != (*experts, *shape):
        raise Malformed(
            f"its tensor {wanted} has shape {source.shape}, and its sizes call for {(*experts, *shape)}"
        )
    if source.type not in READABLE:
        raise UserError(
            f"{file.path} has {wanted} in {source.type.name}, and weft imports"
            f" {', '.join(kind.name for kind in READABLE)}: choose the file of another quantisation"
        )
    return PlannedTensor(
        name,
        shape,
        source,
        (expert or 0) * math.prod(shape[:-1]),
        config.head_dim if architecture.is_interleaved(name) else 0,
        architecture.has_one_added(name),
    )


def bf16_pieces(file: GgufFile, tensor: PlannedTensor) -> Iterator[NDArray[np.uint16]]:
    """The tensor's bits, some rows at a time. Raises `Malformed` for values that are no numbers."""
    vector = len(tensor.shape) == 1
    rows = 1 if vector else math.prod(tensor.shape[:-1])
    unit = 1 if vector else max(1, tensor.head_dim)  # rows that belong together
    step = max(1, _PIECE_ITEMS // (unit * tensor.shape[-1])) * unit
    for row in range(0, rows, step):
        count = min(step, rows - row)
        piece = _bf16(file.read(tensor.source, tensor.first_row + row, count), tensor)
        if tensor.head_dim:
            # A biased projection has a vector of its rows.
            piece = _by_halves(piece.reshape(-1, 1) if vector else piece, tensor.head_dim)
        yield piece


def _by_halves(rows: NDArray[np.uint16], head_dim: int) -> NDArray[np.uint16]:
    """Rows of heads in the order for turning halves, from that for turning neighbours."""
    columns = rows.shape[-1]
    return rows.reshape(-1, head_dim // 2, 2, columns).swapaxes(1, 2).reshape(-1, columns)


def _bf16(packed: NDArray[np.uint8], tensor: PlannedTensor) -> NDArray[np.uint16]:
    if tensor.source.type is Type.BF16 and not tensor.has_one_added:
        bits = packed.view("<u2")
    else:
        values = dequantize(packed, tensor.source.type)
        if not np.isfinite(values).all():
            raise _no_numbers(tensor)
        bits = rounded(values - np.float32(1) if tensor.has_one_added else values)
    if ((bits & 0x7F80) == 0x7F80).any():
        raise _no_numbers(tensor)
    return bits


def rounded(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bf16, to even at the half; of finite values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _no_numbers(tensor: PlannedTensor) -> Malformed:
    return Malformed(f"its tensor {tensor.source.name} holds what is no number")
