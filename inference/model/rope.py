"""Rotary position embedding: angles as transformers computes them, as a table that grows with the positions in use.

    rotate(x)[j] = x[j] * cos[j] + x[j +- dim/2] * sin[j]      with the sign of the rotation folded into sin

The table grows in pieces of one fixed size: vectorised cosines round differently at the end of an array, and a
position's angle must not depend on how long the table has become.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from inference.model.config import Llama3Scaling, ModelConfig

_PIECE_ROWS: Final = 256


class RopeTable:
    """Cosines and signed sines of every position asked for so far."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self._inverse = _inverse_frequencies(config)  # [head_dim / 2]
        self._dtype = dtype
        self._cos = torch.empty(0, 1, config.head_dim, dtype=dtype)  # [positions, 1, head_dim]
        self._sin = self._cos

    def rows(self, position: int, rows: int) -> tuple[Tensor, Tensor]:
        """The table of positions `position` to `position + rows - 1`, each [rows, 1, head_dim]."""
        while len(self._cos) < position + rows:
            cos, sin = self._piece(len(self._cos))
            self._cos, self._sin = torch.cat([self._cos, cos]), torch.cat([self._sin, sin])
        return self._cos[position : position + rows], self._sin[position : position + rows]

    def at(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The table of any positions, each [len(positions), 1, head_dim]."""
        self.rows(0, max(positions) + 1)
        chosen = torch.tensor(positions)
        return self._cos.index_select(0, chosen), self._sin.index_select(0, chosen)

    def _piece(self, start: int) -> tuple[Tensor, Tensor]:
        positions = torch.arange(start, start + _PIECE_ROWS, dtype=torch.float32)
        angles = torch.outer(positions, self._inverse)
        cos, sin = angles.cos(), angles.sin()
        both = torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)
        return both[0].to(self._dtype).unsqueeze(1), both[1].to(self._dtype).unsqueeze(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, heads, head_dim], turned by the angles of its rows."""
    # Two products and a sum, each rounded by itself: a fused multiply-add rounds differently at the end of an array.
    return x * cos + torch.roll(x, x.shape[-1] // 2, -1) * sin


def _inverse_frequencies(config: ModelConfig) -> Tensor:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    inverse = 1.0 / (config.rope_theta**exponents)
    return inverse if config.rope_scaling is None else _stretched(inverse, config.rope_scaling)


def _stretched(inverse: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Long waves are slowed by the factor, short ones kept, those between blended (Llama 3.1)."""
    wavelength = 2 * math.pi / inverse
    blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * inverse / scaling.factor + blend * inverse
    slow = wavelength > scaling.original_context / scaling.low_freq_factor
    fast = wavelength < scaling.original_context / scaling.high_freq_factor
    return torch.where(slow, inverse / scaling.factor, torch.where(fast, inverse, blended))
