"""Rotary position embedding: angles as transformers computes them, as tables that grow with the positions in use.

    rotate(x)[j] = x[j] * cos[j] + x[j +- dim/2] * sin[j]      with the sign of the rotation folded into sin

A table grows in pieces of one fixed size: vectorised cosines round differently at the end of an array, and a position's angle
must not depend on how long the table has become.

LongRoPE has two sets of factors, and keys turned by one don't belong with queries turned by the other. Which of them a sequence
has follows from the most rows that it may come to, so that its rows are turned alike from the first to the last and in every
replay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from inference.model.config import ModelConfig
from inference.model.families import LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling

_PIECE_ROWS: Final = 256

Angles = tuple[Tensor, Tensor]
"""Cosines and signed sines, each [rows, 1, turned]."""

HOST: Final = torch.device("cpu")

Stretch = tuple[int, int, int]
"""Rows of a sequence: the first one's position, how many, and the most rows that the sequence may come to."""


class RopeTable:
    """Cosines and signed sines of every position asked for so far: made by the processor wherever they lie."""

    def __init__(
        self, rope: Rope, dtype: torch.dtype, place: torch.device = HOST, *, is_long: bool = False
    ) -> None:
        self._inverse = _inverse_frequencies(rope, is_long=is_long)  # [turned / 2]
        self._amplitude = rope.amplitude
        self._dtype = dtype
        self._place = place
        self._cos = torch.empty(0, 1, rope.turned, dtype=dtype, device=place)  # [positions, 1, turned]
        self._sin = self._cos

    def rows(self, position: int, rows: int) -> Angles:
        """The table of positions `position` to `position + rows - 1`."""
        while len(self._cos) < position + rows:
            cos, sin = self._piece(len(self._cos))
            self._cos, self._sin = torch.cat([self._cos, cos]), torch.cat([self._sin, sin])
        return self._cos[position : position + rows], self._sin[position : position + rows]

    def at(self, positions: Sequence[int]) -> Angles:
        """The table of any positions."""
        self.rows(0, max(positions) + 1)
        chosen = torch.tensor(positions).to(self._place)
        return self._cos.index_select(0, chosen), self._sin.index_select(0, chosen)

    def _piece(self, start: int) -> Angles:
        positions = torch.arange(start, start + _PIECE_ROWS, dtype=torch.float32)
        angles = torch.outer(positions, self._inverse)
        cos, sin = angles.cos() * self._amplitude, angles.sin() * self._amplitude
        both = torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)
        cos, sin = (each.to(self._dtype).unsqueeze(1).to(self._place) for each in both)
        return cos, sin


class RopeTables:
    """The tables of a model: one for each way in which its layers turn heads, two with LongRoPE."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, place: torch.device = HOST) -> None:
        self._ropes = tuple(kind.rope for kind in config.kinds)
        self._dtype = dtype
        self._place = place
        self._tables: dict[tuple[Rope, bool], RopeTable] = {}

    def of(self, stretches: Sequence[Stretch], rows: int) -> tuple[Angles, ...]:
        """The angles of the rows of all stretches, one below the other and padded to `rows`: for every kind of layer."""
        # Kinds that differ in their window only share their angles.
        found = {rope: self._angles(rope, stretches, rows) for rope in dict.fromkeys(self._ropes)}
        return tuple(found[rope] for rope in self._ropes)

    def turns_long(self, rows_max: int) -> bool:
        """Whether a sequence of up to that many rows has the angles of long ones, which don't go with those of others."""
        return any(_is_long(rope, rows_max) for rope in self._ropes)

    def _angles(self, rope: Rope, stretches: Sequence[Stretch], rows: int) -> Angles:
        tables = [self._table(rope, rows_max) for _, _, rows_max in stretches]
        if len(stretches) == 1:
            return tables[0].rows(stretches[0][0], rows)
        padding = rows - sum(count for _, count, _ in stretches)
        if all(table is tables[0] for table in tables):
            positions = [row for at, count, _ in stretches for row in range(at, at + count)]
            return tables[0].at(positions + [0] * padding)
        parts = [table.rows(at, count) for table, (at, count, _) in zip(tables, stretches, strict=True)]
        cos, sin = zip(*parts, tables[0].rows(0, padding), strict=True)
        return torch.cat(cos), torch.cat(sin)

    def _table(self, rope: Rope, rows_max: int) -> RopeTable:
        is_long = _is_long(rope, rows_max)
        table = self._tables.get((rope, is_long))
        if table is None:
            table = self._tables[rope, is_long] = RopeTable(rope, self._dtype, self._place, is_long=is_long)
        return table


def _is_long(rope: Rope, rows_max: int) -> bool:
    return isinstance(rope.scaling, LongScaling) and rows_max > rope.scaling.original_context


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, heads, head_dim], its first dimensions turned by the angles of its rows."""
    turned = cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat([rotate(x[..., :turned], cos, sin), x[..., turned:]], -1)
    # Two products and a sum, each rounded by itself: a fused multiply-add rounds differently at the end of an array.
    return x * cos + torch.roll(x, turned // 2, -1) * sin


def _inverse_frequencies(rope: Rope, *, is_long: bool) -> Tensor:
    # Rounded step by step as transformers does: at position 100,000 the last bit of a frequency turns by a third of a degree.
    exponents = torch.arange(0, rope.turned, 2, dtype=torch.int64).float() / rope.turned
    waves = rope.theta**exponents
    match rope.scaling:
        case None:
            return 1.0 / waves
        case LinearScaling(factor):
            return 1.0 / waves / factor
        case Llama3Scaling():
            return _by_wavelength(1.0 / waves, rope.scaling)
        case YarnScaling():
            return _by_dimension(waves, rope, rope.scaling)
        case LongScaling(short, long, _):
            return 1.0 / (torch.tensor(long if is_long else short) * waves)


def _by_wavelength(inverse: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Long waves are slowed by the factor, short ones kept, those between blended (Llama 3.1)."""
    wavelength = 2 * math.pi / inverse
    blend = (scaling.original_context / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * inverse / scaling.factor + blend * inverse
    slow = wavelength > scaling.original_context / scaling.low_freq_factor
    fast = wavelength < scaling.original_context / scaling.high_freq_factor
    return torch.where(slow, inverse / scaling.factor, torch.where(fast, inverse, blended))


def _by_dimension(waves: Tensor, rope: Rope, scaling: YarnScaling) -> Tensor:
    """Kept up to the dimension that turns `beta_fast` times within the original context, slowed by the factor from the one
    that turns `beta_slow` times, a straight line between them (YaRN, equations 15 to 17 and 23)."""

    def dimension(turns: float) -> float:
        length = scaling.original_context / (2 * math.pi * turns)
        return rope.turned * math.log(length) / (2 * math.log(rope.theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.is_rounded:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.turned - 1)
    pairs = torch.arange(rope.turned // 2, dtype=torch.float32)
    slowed = ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)
    return 1.0 / (scaling.factor * waves) * slowed + 1.0 / waves * (1 - slowed)
