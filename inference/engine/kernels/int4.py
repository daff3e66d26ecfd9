"""Products of 4-bit weights in groups of 64 with 16-bit rows: the smallest memory, and quickest where rows are few.

Rows are not quantised. The kernel takes a row after the other, so that many rows take their time each.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.kernels.quantised import Int4Weight, quantise_int4
from inference.model.blocks import Linear
from inference.model.precision import INT4_GROUP, PRECISIONS
from inference.model.threads import on_all_threads

_INNER_TILES: Final = 1  # of the accelerators' layout; the processor's has none
_PIECE_OUTPUTS: Final = 1024  # tiles of 16, 32 or 64 outputs by processor fit it


def grouped(weight: Int4Weight) -> Linear:
    """torch's kernel for 4-bit groups."""
    outputs, inputs = len(weight.nibbles), weight.inputs
    rows, columns = PRECISIONS["int4"].padded(outputs, inputs)
    packed = _packed(weight, rows)
    scales = functional.pad(weight.scales, (0, 0, 0, 0, 0, rows - outputs)).transpose(0, 1).contiguous()
    product = on_all_threads(torch.ops.aten._weight_int4pack_mm_for_cpu.default)  # noqa: SLF001
    if (rows, columns) == (outputs, inputs):
        return lambda x: product(x, packed, INT4_GROUP, scales)

    def multiply(x: Tensor) -> Tensor:
        y: Tensor = product(functional.pad(x, (0, columns - inputs)), packed, INT4_GROUP, scales)
        return y[:, :outputs].contiguous()

    return multiply


def _packed(weight: Int4Weight, rows: int) -> Tensor:
    """[rows, groups * 32], in pieces: while it is packed, a weight of 4 bit takes 32."""
    packed = torch.empty(rows, weight.nibbles.shape[1], dtype=torch.uint8)
    for start in range(0, rows, _PIECE_OUTPUTS):
        levels = weight.levels(slice(start, start + _PIECE_OUTPUTS))
        levels = functional.pad(levels, (0, 0, 0, min(_PIECE_OUTPUTS, rows - start) - len(levels)))
        packed[start : start + len(levels)] = torch.ops.aten._convert_weight_to_int4pack_for_cpu(  # noqa: SLF001
            levels, _INNER_TILES
        )
    return packed


def widened(weight: Int4Weight) -> Linear:
    """For a torch without that kernel: slow."""

    def multiply(x: Tensor) -> Tensor:
        return functional.linear(x, weight.widened(x.dtype))

    return on_all_threads(multiply)


def is_right() -> bool:
    """Whether the kernel is there and reads what was packed for it."""
    items = (torch.arange(16 * 128).view(16, 128) * 37 % 101 / 50 - 1).to(torch.bfloat16)
    weight, x = quantise_int4(items), torch.linspace(-1, 1, 256, dtype=torch.bfloat16).view(2, 128)
    expected = functional.linear(x.float(), weight.widened(torch.float32))
    try:
        found = grouped(weight)(x).float()
    except (AttributeError, RuntimeError):
        return False
    return bool((found - expected).norm() < 0.02 * expected.norm())
