"""Weights of a product in 8 or 4 bit with their scales, unpacked: what is cached on disk and packed at load.

    int8   weight[o, i] ~ items[o, i] * scales[o]                             items in -127 .. 127
    int4   weight[o, i] ~ (nibble[o, i] - 8) * scale[o, i/64] + offset[o, i/64]     nibbles in 0 .. 15, two to a byte

Each output is quantised by itself, so that tensors that lie one below the other in a product are quantised one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from inference.model.precision import INT4_GROUP

_PIECE_ITEMS: Final = 1 << 21  # widened to 32 bit at a time: a head is too large to have in it whole


@dataclass(frozen=True, slots=True)
class Int8Weight:
    items: Tensor  # [outputs, inputs] int8
    scales: Tensor  # [outputs] float32

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.items), self.items.shape[1]

    def part(self, outputs: slice) -> Int8Weight:
        """The same memory."""
        return Int8Weight(self.items[outputs], self.scales[outputs])

    def fill(self, weight: Tensor) -> None:
        """Quantises [outputs, inputs] of any float type."""
        wide = weight.float()
        scale = wide.abs().amax(1).div_(127)
        self.scales.copy_(scale)
        # An output of zeros alone has no scale, and none is wanted.
        self.items.copy_(wide.div(scale.clamp_min(1e-38)[:, None]).round_().clamp_(-127, 127))

    def take(self, outputs: Tensor) -> Int8Weight:
        """The outputs of these numbers."""
        return Int8Weight(self.items[outputs], self.scales[outputs])

    def widened(self, dtype: torch.dtype) -> Tensor:
        """[outputs, inputs] as it was, but for what was rounded off."""
        return (self.items.float() * self.scales[:, None]).to(dtype)


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """Inputs are padded with zeros to whole groups, outputs not."""

    nibbles: Tensor  # [outputs, groups * 32] uint8; the even input in the low half
    scales: Tensor  # [outputs, groups, 2] bfloat16: scale and offset
    inputs: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.nibbles), self.inputs

    def part(self, outputs: slice) -> Int4Weight:
        """The same memory."""
        return Int4Weight(self.nibbles[outputs], self.scales[outputs], self.inputs)

    def fill(self, weight: Tensor) -> None:
        """Quantises [outputs, inputs] of any float type. The scales are rounded first, so that no weight is further off than
        half a step."""
        outputs, groups, _ = self.scales.shape
        wide = functional.pad(weight.float(), (0, groups * INT4_GROUP - self.inputs))
        wide = wide.view(outputs, groups, INT4_GROUP)
        least, most = wide.aminmax(dim=2)
        scale = ((most - least) / 15).clamp_min(1e-30).to(torch.bfloat16)
        offset = (least + 8 * scale.float()).to(torch.bfloat16)
        self.scales[..., 0], self.scales[..., 1] = scale, offset
        levels = (wide - offset.float()[..., None]).div_(scale.float()[..., None]).round_().add_(8)
        halves = levels.clamp_(0, 15).to(torch.uint8).flatten(1)
        self.nibbles.copy_(halves[:, ::2] | (halves[:, 1::2] << 4))

    def take(self, outputs: Tensor) -> Int4Weight:
        """The outputs of these numbers."""
        return Int4Weight(self.nibbles[outputs], self.scales[outputs], self.inputs)

    def levels(self, outputs: slice = slice(None)) -> Tensor:
        """[outputs, groups * 64] int32, 0 .. 15."""
        nibbles = self.nibbles[outputs]
        return torch.stack([nibbles & 15, nibbles >> 4], -1).flatten(1).to(torch.int32)

    def widened(self, dtype: torch.dtype) -> Tensor:
        """[outputs, inputs]"""
        scale, offset = self.scales.float().unbind(-1)
        levels = self.levels().float().view(len(self.nibbles), -1, INT4_GROUP) - 8
        whole = levels * scale[..., None] + offset[..., None]
        return whole.flatten(1)[:, : self.inputs].to(dtype)


Quantised = Int8Weight | Int4Weight


def empty_int8(outputs: int, inputs: int) -> Int8Weight:
    """To be filled."""
    return Int8Weight(
        torch.empty(outputs, inputs, dtype=torch.int8), torch.empty(outputs, dtype=torch.float32)
    )


def empty_int4(outputs: int, inputs: int) -> Int4Weight:
    """To be filled."""
    groups = -(-inputs // INT4_GROUP)
    nibbles = torch.empty(outputs, groups * INT4_GROUP // 2, dtype=torch.uint8)
    return Int4Weight(nibbles, torch.empty(outputs, groups, 2, dtype=torch.bfloat16), inputs)


def quantise_int8(weight: Tensor) -> Int8Weight:
    """[outputs, inputs] of any float type."""
    return _quantised(weight, empty_int8(*weight.shape))


def quantise_int4(weight: Tensor) -> Int4Weight:
    """[outputs, inputs] of any float type."""
    return _quantised(weight, empty_int4(*weight.shape))


def rows_at_once(inputs: int) -> int:
    """How many outputs are best quantised together."""
    return max(1, _PIECE_ITEMS // inputs)


_QuantisedT = TypeVar("_QuantisedT", Int8Weight, Int4Weight)


def _quantised(weight: Tensor, empty: _QuantisedT) -> _QuantisedT:
    step = rows_at_once(weight.shape[1])
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        empty.part(rows).fill(weight[rows])
    return empty
