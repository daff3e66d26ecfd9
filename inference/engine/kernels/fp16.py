"""Products of bf16 weights on processors that cannot multiply in bf16: kept in fp16, widened a few at a time, added in 32 bit.

    y[r, o] = bf16(sum_i x[r, i] * fp16(weight[o, i] * scale)) / scale     scale the power of two that brings the largest
                                                                           weight of the tensor into 2^14 .. 2^15

fp16 has more digits than bf16 and a smaller range: what is up to 2^29 times smaller than the largest weight stays as it is, and
what is smaller still is off by 2^-40 of the largest at most.

fbgemm adds one row, two rows, and three to six rows in three different orders, and makes more rows of those. Rows are padded where
one or two would be left over sixes, so that there is one order only. It also keeps inputs in blocks of 512, filled up with zeros. So that a
large weight takes no more memory than in bf16, inputs that are no whole block come in groups of outputs beside each other, in a
call of their own:

    a b c d      a c        x 0        outputs a and b in the first rows, c and d in the second ones:
             ->  b d   and  0 x        a tail of half a block fills one with half of the outputs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.engine.kernels.fbgemm import fbgemm_packing
from inference.model.blocks import Linear, joined
from inference.model.threads import on_all_threads

_BLOCK_INPUTS: Final = 512
_TAIL_INPUTS: Final = 64  # a shorter one is not worth a call of its own
# Of the inputs so many may be filled up with zeros, where that saves a call; and of a weight, so many items.
_FILLED_SHARE: Final = 1 / 32
_FILLED_ITEMS: Final = 3 << 17
_FEW_ROWS: Final = 3
_WHOLE_ROWS: Final = 6
# Widened to 32 bit at a time while they are packed: a head is too large to have in it whole. Every piece is a call of its own,
# in which threads wait for each other once more.
_PIECE_ITEMS: Final = 1 << 25
_COLUMNS: Final = 16  # outputs that the kernel takes together
_LARGEST_EXPONENT: Final = 15
_SCALE_EXPONENT_MAX: Final = 64  # sums are that many times as large, and must not become too large for 32 bit

Product = Callable[[Tensor, torch.ScriptObject], Tensor]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some inputs of a product, `groups` of its outputs beside each other."""

    inputs: slice
    groups: int
    packed: torch.ScriptObject

    def multiply(self, product: Product, x: Tensor, outputs: int) -> Tensor:
        """x [rows, all inputs] -> [rows, outputs]"""
        x = x[:, self.inputs]
        if self.groups == 1:
            return product(x, self.packed)
        rows = len(x)
        each = rows * self.groups
        beside = x.new_zeros(each + _missing(each), _BLOCK_INPUTS)
        apart = beside[:each].view(rows, self.groups, self.groups, -1)
        apart.diagonal(0, 1, 2)[:, : x.shape[1]] = x[:, :, None]
        y = product(beside, self.packed)[:each]
        return y.view(rows, -1)[:, :outputs]


def fbgemm(weight: Tensor) -> Linear:
    """Quick at all row counts where memory is what a lone row waits for."""
    scale = _scale(weight)
    summed = _summed(weight, scale)

    def multiply(x: Tensor) -> Tensor:
        rows = len(x)
        return summed(_whole(x.float()))[:rows].to(x.dtype).mul_(1 / scale)

    return multiply


def is_right() -> bool:
    """Whether the kernel is there, and takes weights of very different sizes for what they are."""
    spread = torch.logspace(-24, 0, 640, base=2.0)
    weight = (torch.linspace(-1, 1, 48)[:, None] * spread * 2.0**-40).to(torch.bfloat16)
    x = (spread.flip(0) * torch.tensor([[1.0], [-3.0]])).to(torch.bfloat16)
    expected = x.double() @ weight.double().T
    try:
        found = fbgemm(weight)(x)
    except (AttributeError, RuntimeError):
        return False
    return bool((found.double() - expected).norm() < 0.005 * expected.norm())


def _summed(weight: Tensor, scale: float) -> Linear:
    """The products in 32 bit, of rows that are whole, with the scaled weight."""
    (outputs, inputs), cut = weight.shape, tuple(_cut(*weight.shape))
    pieces_count = -(-weight.numel() // _PIECE_ITEMS)
    step = -(-outputs // pieces_count // _COLUMNS) * _COLUMNS
    product = on_all_threads(torch.ops.quantized.linear_dynamic_fp16.default)
    pieces = [
        (min(step, outputs - start), tuple(_parts(weight[start : start + step], scale, cut)))
        for start in range(0, outputs, step)
    ]
    if len(pieces) == 1 and cut == ((slice(0, inputs), 1),):  # as with most: nothing to put together
        ((_, (part,)),) = pieces
        return lambda x: product(x, part.packed)
    return lambda x: joined([_sum(product, x, count, parts) for count, parts in pieces], 1)


def _sum(product: Product, x: Tensor, outputs: int, parts: tuple[_Part, ...]) -> Tensor:
    total = parts[0].multiply(product, x, outputs)
    for part in parts[1:]:
        total = total + part.multiply(product, x, outputs)
    return total


def _scale(weight: Tensor) -> float:
    _, exponent = math.frexp(float(weight.abs().amax()))
    return 2.0 ** min(_LARGEST_EXPONENT - exponent, _SCALE_EXPONENT_MAX)


def _whole(x: Tensor) -> Tensor:
    """With as many rows as the kernel makes of threes to sixes alone."""
    if len(x) == 1:
        return x.expand(_FEW_ROWS, -1)
    missing = _missing(len(x))
    return functional.pad(x, (0, 0, 0, missing)) if missing else x


def _missing(rows: int) -> int:
    left = rows % _WHOLE_ROWS
    return _FEW_ROWS - left if 0 < left < _FEW_ROWS else 0


def _parts(weight: Tensor, scale: float, cut: Iterable[tuple[slice, int]]) -> Iterator[_Part]:
    """All inputs of [outputs, inputs]."""
    wide = weight.float().mul_(scale)
    for inputs, groups in cut:
        yield _Part(inputs, groups, _packed(wide[:, inputs], groups))


def _cut(outputs: int, inputs: int) -> Iterator[tuple[slice, int]]:
    """Inputs in whole blocks, then in halves, quarters and so on of one, each with the groups that fill it."""
    if -inputs % _BLOCK_INPUTS * outputs <= _FILLED_ITEMS:
        yield slice(0, inputs), 1
        return
    at = inputs // _BLOCK_INPUTS * _BLOCK_INPUTS
    if at:
        yield slice(0, at), 1
    while at < inputs:
        left = inputs - at
        width = max(_TAIL_INPUTS, 1 << (left - 1).bit_length())
        if width > _TAIL_INPUTS and width - left > _FILLED_SHARE * inputs:
            width //= 2
        yield slice(at, min(at + width, inputs)), _BLOCK_INPUTS // width
        at += width


def _packed(wide: Tensor, groups: int) -> torch.ScriptObject:
    if groups > 1:
        outputs, width = len(wide), _BLOCK_INPUTS // groups
        each = -(-outputs // groups)
        wide = functional.pad(wide, (0, width - wide.shape[1], 0, groups * each - outputs))
        wide = wide.view(groups, each, width).transpose(0, 1).reshape(each, _BLOCK_INPUTS)
    with fbgemm_packing():
        packed: torch.ScriptObject = torch.ops.quantized.linear_prepack_fp16(wide.contiguous(), None)
    return packed
