"""How the rows of a cache lie in memory: as they are computed, or in 8 bit.

    model   a key or value head of a row as it is, [head_dim] in the type of the model's rows
    int8    8 bits a number, and behind them what all of them are multiples of, in the type of the model's rows

The rule of the file: a head of a row is rounded by itself, and everybody sees it rounded, its own row included. So what a row
sees does not depend on what came with it, and a replay gives the bits of decoding. Rows that lie there are plain bytes: they
are copied, cut off and kept for later sessions without a look at what they mean. A head that is not finite comes back as NaN,
and one of zeros as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.model.precision import KV_KINDS

_STEPS: Final = 127  # from 0 to the largest number of a head, on either side


@dataclass(frozen=True, slots=True)
class KvForm:
    """`dtype` is that of the rows that are computed with."""

    dtype: torch.dtype
    is_int8: bool = False

    @property
    def stored_dtype(self) -> torch.dtype:
        return torch.int8 if self.is_int8 else self.dtype

    def width(self, head_dim: int) -> int:
        """Items of a stored head."""
        return head_dim + self.dtype.itemsize if self.is_int8 else head_dim

    def stored(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, kv_heads, head_dim] -> [rows, kv_heads, width]"""
        if not self.is_int8:
            return keys, values
        keys, values = _rounded(torch.cat([keys, values], 1)).chunk(2, 1)
        return keys, values

    def read(self, stored: Tensor, out: Tensor | None = None) -> Tensor:
        """[.., width] -> [.., head_dim], in `out` if there is one."""
        if not self.is_int8:
            return stored
        width = stored.shape[-1] - self.dtype.itemsize
        numbers = stored[..., :width]
        rows = numbers.to(self.dtype) if out is None else out.copy_(numbers)
        return rows.mul_(self._scales(stored))

    def is_finite(self, stored: Tensor) -> bool:
        """One look at all of them costs next to nothing."""
        numbers = self._scales(stored) if self.is_int8 else stored
        return bool(torch.isfinite(numbers.sum()))

    def _scales(self, stored: Tensor) -> Tensor:
        # Copied in any case: they lie where no number of their type may begin.
        return (
            stored[..., -self.dtype.itemsize :].clone(memory_format=torch.contiguous_format).view(self.dtype)
        )


def make_form(kv: str, dtype: torch.dtype) -> KvForm:
    """`kv` is one of `KV_KINDS`."""
    assert kv in KV_KINDS
    return KvForm(dtype, kv == "int8")


def _rounded(rows: Tensor) -> Tensor:
    # The scale is rounded first: what is divided by it and what is multiplied with it is the same number. No scale is 0.
    scales = rows.abs().amax(-1, keepdim=True).float().div_(_STEPS).to(rows.dtype)
    scales.clamp_min_(torch.finfo(rows.dtype).tiny)
    numbers = rows.float().div_(scales).round_().to(torch.int8)
    return torch.cat([numbers, scales.view(torch.int8)], -1)
