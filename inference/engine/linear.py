"""Matrix products with a fixed weight, by two kernels: oneDNN on a weight packed once, or torch's plain one.

Packed is about 1.4 times as fast for a single row, because the weight already lies in the order the kernel reads it in.
Which of the two serves a shard is found before its weights are read (inference/engine/selftest.py), and is part of its
numerics class: they round differently.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from inference.model.blocks import Linear


class Kernel(Enum):
    PACKED = "packed"
    PLAIN = "plain"


def make_linear(weight: Tensor, kernel: Kernel, rows_hint: int) -> Linear:
    """The product with `weight` [outputs, inputs]. `rows_hint` is how many rows come most often."""
    return _packed(weight, rows_hint) if kernel is Kernel.PACKED else _plain(weight)


def _plain(weight: Tensor) -> Linear:
    def multiply(x: Tensor) -> Tensor:
        return functional.linear(x, weight)

    return multiply


def _packed(weight: Tensor, rows_hint: int) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows_hint)  # noqa: SLF001
    pointwise = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001

    def multiply(x: Tensor) -> Tensor:
        y: Tensor = pointwise(x, packed, None, "none", [], "")
        return y

    return multiply


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch and this processor have the packed kernel for the type."""
    try:
        _packed(torch.zeros(16, 16, dtype=dtype), 4)(torch.zeros(4, 16, dtype=dtype))
    except (AttributeError, RuntimeError):
        return False
    return True
