"""Weights of a product in 8 or 4 bit with their scales, unpacked: what is cached on disk and packed at load.

    int8   weight[o, i] ~ items[o, i] * scales[o]                             items in -127 .. 127
    int4   weight[o, i] ~ (nibble[o, i] - 8) * scale[o, i/64] + offset[o, i/64]     nibbles in 0 .. 15, two to a byte

Each output is quantised by itself, so that tensors that lie one below the other in a product are quantised one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from inference.model.precision import INT4_GROUP

_PIECE_ITEMS: Final = 1 << 21  # widened to 32 bit at a time: a head is too large to have in it whole


@dataclass(frozen=True, slots=True)
class Int8Weight:
    items: Tensor  # [outputs, inputs] int8
    scales: Tensor  # [outputs] float32

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


def quantise_int8(weight: Tensor) -> Int8Weight:
    """[outputs, inputs] of any float type."""
    items = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), dtype=torch.float32)
    for rows in _pieces(weight):
        wide = weight[rows].float()
        scale = wide.abs().amax(1).div_(127)
        scales[rows] = scale
        # An output of zeros alone has no scale, and none is wanted.
        items[rows] = wide.div(scale.clamp_min(1e-38)[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return Int8Weight(items, scales)


def quantise_int4(weight: Tensor) -> Int4Weight:
    """[outputs, inputs] of any float type. The scales are rounded first, so that no weight is further off than half a step."""
    outputs, inputs = weight.shape
    groups = -(-inputs // INT4_GROUP)
    nibbles = torch.empty(outputs, groups * INT4_GROUP // 2, dtype=torch.uint8)
    scales = torch.empty(outputs, groups, 2, dtype=torch.bfloat16)
    for rows in _pieces(weight):
        wide = functional.pad(weight[rows].float(), (0, groups * INT4_GROUP - inputs))
        wide = wide.view(len(wide), groups, INT4_GROUP)
        least, most = wide.aminmax(dim=2)
        scale = ((most - least) / 15).clamp_min(1e-30).to(torch.bfloat16)
        offset = (least + 8 * scale.float()).to(torch.bfloat16)
        scales[rows, :, 0], scales[rows, :, 1] = scale, offset
        levels = (wide - offset.float()[..., None]).div_(scale.float()[..., None]).round_().add_(8)
        halves = levels.clamp_(0, 15).to(torch.uint8).flatten(1)
        nibbles[rows] = halves[:, ::2] | (halves[:, 1::2] << 4)
    return Int4Weight(nibbles, scales, inputs)


def join_int8(parts: Sequence[Int8Weight]) -> Int8Weight:
    """Products of the same rows as one, the outputs of the first part first."""
    if len(parts) == 1:
        return parts[0]
    return Int8Weight(torch.cat([part.items for part in parts]), torch.cat([part.scales for part in parts]))


def join_int4(parts: Sequence[Int4Weight]) -> Int4Weight:
    if len(parts) == 1:
        return parts[0]
    nibbles, scales = torch.cat([part.nibbles for part in parts]), torch.cat([part.scales for part in parts])
    return Int4Weight(nibbles, scales, parts[0].inputs)


def _pieces(weight: Tensor) -> Iterator[slice]:
    step = max(1, _PIECE_ITEMS // weight.shape[1])
    for start in range(0, len(weight), step):
        yield slice(start, min(start + step, len(weight)))
