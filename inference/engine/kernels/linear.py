"""Matrix products with a fixed weight, by the kernels that torch has for each dtype of a shard.

    dtype      kernels, the ones tried first first
    bf16, f32  packed: oneDNN on a weight packed once; plain: torch's own, on the weight as it is
    bf16       fp16: fbgemm, for processors without products in bf16 (inference/engine/kernels/fp16.py)
    int8       oneDNN and fbgemm on rows that are quantised one by one (inference/engine/kernels/int8.py), fbgemm on halves
               of them; widened
    int4       groups of 64 with 16-bit rows (inference/engine/kernels/int4.py); widened

No kernel is quickest on all processors, and a product is kept packed for one kernel only, for two would take twice the
memory. So one serves all row counts of a shard. Which, and in how many rows at a time, is found before its weights are
read (inference/engine/numerics/selftest.py). Widened is what remains where a processor or a torch has none of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.kernels import fp16, int4, int8
from inference.engine.kernels.quantised import (
    Int4Weight,
    Int8Weight,
    Quantised,
    empty_int4,
    empty_int8,
    quantise_int4,
    quantise_int8,
)
from inference.model.blocks import Linear
from inference.model.threads import on_all_threads
from inference.model.weights import TORCH_DTYPES

# The order that weights lie in is chosen for so many rows and fixes the kernel: rows round by it. It is as good for a lone row.
_PACKED_FOR_ROWS: Final = 16

Weight = Tensor | Quantised


class Kernel(Enum):
    PACKED = "packed"
    PLAIN = "plain"
    FP16 = "fp16-fbgemm"
    INT8_ONEDNN = "int8-onednn"
    INT8_FBGEMM = "int8-fbgemm"
    INT8_HALVES = "int8-halves"
    INT8_WIDENED = "int8-widened"
    INT4_GROUPED = "int4-grouped"
    INT4_WIDENED = "int4-widened"

    @property
    def is_quantised(self) -> bool:
        return self not in {Kernel.PACKED, Kernel.PLAIN, Kernel.FP16}


_KERNELS: Final = {
    "bf16": (Kernel.PACKED, Kernel.PLAIN, Kernel.FP16),
    "f32": (Kernel.PACKED, Kernel.PLAIN),
    "int8": (Kernel.INT8_ONEDNN, Kernel.INT8_FBGEMM, Kernel.INT8_HALVES, Kernel.INT8_WIDENED),
    "int4": (Kernel.INT4_GROUPED, Kernel.INT4_WIDENED),
}

_INT8: Final[dict[Kernel, int8.Maker]] = {
    Kernel.INT8_ONEDNN: int8.onednn,
    Kernel.INT8_FBGEMM: int8.fbgemm,
    Kernel.INT8_HALVES: int8.halves,
    Kernel.INT8_WIDENED: int8.widened,
}
_INT4: Final[dict[Kernel, Callable[[Int4Weight], Linear]]] = {
    Kernel.INT4_GROUPED: int4.grouped,
    Kernel.INT4_WIDENED: int4.widened,
}


def as_wanted(weight: Tensor, kernel: Kernel) -> Weight:
    """The weight [outputs, inputs] as the kernel takes it."""
    if kernel in _INT8:
        return quantise_int8(weight)
    return quantise_int4(weight) if kernel in _INT4 else weight


def empty_quantised(kernel: Kernel, outputs: int, inputs: int) -> Quantised:
    """A weight as that kernel takes it, to be filled."""
    return empty_int8(outputs, inputs) if kernel in _INT8 else empty_int4(outputs, inputs)


def make_linear(weight: Weight, kernel: Kernel) -> Linear:
    """The product with a weight that is as the kernel wants it."""
    match weight:
        case Int8Weight():
            return _INT8[kernel](weight)
        case Int4Weight():
            return _INT4[kernel](weight)
        case _:
            return _FLOAT[kernel](weight)


def take(weight: Weight, outputs: Tensor) -> Weight:
    """The outputs of these numbers."""
    return weight[outputs] if isinstance(weight, Tensor) else weight.take(outputs)


@cache
def usable_kernels(dtype: str) -> tuple[Kernel, ...]:
    """Those that this build of torch and this processor have and that compute what they should; never empty."""
    usable = tuple(kernel for kernel in _KERNELS[dtype] if _is_usable(kernel, TORCH_DTYPES[dtype]))
    return usable or _KERNELS[dtype][-1:]


def _is_usable(kernel: Kernel, dtype: torch.dtype) -> bool:
    """Widened weights are never compared with others: they are for where there are no others."""
    if kernel in {Kernel.INT8_WIDENED, Kernel.INT4_WIDENED}:
        return False
    if kernel is Kernel.PLAIN:
        return True
    if kernel is Kernel.FP16:
        return fp16.is_right()
    if kernel in _INT8:
        return int8.is_exact(_INT8[kernel])
    if kernel in _INT4:
        return int4.is_right()
    try:
        _packed(torch.zeros(16, 16, dtype=dtype))(torch.zeros(4, 16, dtype=dtype))
    except (AttributeError, RuntimeError):
        return False
    return True


def _plain(weight: Tensor) -> Linear:
    def multiply(x: Tensor) -> Tensor:
        return functional.linear(x, weight)

    return on_all_threads(multiply)


def _packed(weight: Tensor) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)  # noqa: SLF001
    pointwise = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001

    def multiply(x: Tensor) -> Tensor:
        y: Tensor = pointwise(x, packed, None, "none", [], "")
        return y

    return on_all_threads(multiply)


_FLOAT: Final[dict[Kernel, Callable[[Tensor], Linear]]] = {
    Kernel.PACKED: _packed,
    Kernel.PLAIN: _plain,
    Kernel.FP16: fp16.fbgemm,
}
