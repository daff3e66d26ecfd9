"""How the rows of a frame are cut so that a row's bits do not depend on the rows computed with it; no torch here.

A replay after a failure carries in one frame what was decoded row by row, and must give the same keys and values. Two
things stand in the way: matrix kernels sum in another order for other row counts, and attention does so for other
query counts.

* Products, norms and activations run in blocks of two sizes only: up to `lone` rows are padded to `lone`, anything
  longer goes in blocks of `block`. The self-test finds sizes whose rows agree bit for bit at every place.
* Attention runs over the same spans whether rows are new or replayed: prompt rows in blocks that start at multiples of
  `PREFILL_CHUNK_ROWS`, later rows one by one. Frames hold whole prompt blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocols import limits
from protocols.errors import Malformed

LONE_ROWS: Final = (4, 16)
BLOCK_ROWS: Final = (128, 64, 32, 16, 8, 4)


@dataclass(frozen=True, slots=True)
class RowPlan:
    """The two block sizes; `block` 0 takes every frame whole, as fast numerics do."""

    lone: int
    block: int

    def padded(self, rows: int) -> int:
        """How many rows are computed for `rows`."""
        if self.block == 0:
            return rows
        whole, tail = divmod(rows, self.block)
        if tail == 0:
            return rows
        return whole * self.block + (self.lone if tail <= self.lone else self.block)

    def blocks(self, rows: int) -> tuple[slice, ...]:
        """Slices of the padded rows, in order and without gaps."""
        padded = self.padded(rows)
        step = self.block or padded
        return tuple(slice(start, min(start + step, padded)) for start in range(0, padded, step))

    def __str__(self) -> str:
        return f"{self.lone}+{self.block}" if self.block else "whole"


WHOLE_FRAMES: Final = RowPlan(1, 0)


def row_plans() -> Iterator[RowPlan]:
    """Those worth trying, the quickest for decoding first, and of these the quickest for prompts."""
    for lone in LONE_ROWS:
        for block in BLOCK_ROWS:
            if block >= lone:
                yield RowPlan(lone, block)


def exact_spans(position: int, rows: int, prompt_rows: int) -> Iterator[tuple[int, int]]:
    """The (start, end) of each attention call for the rows from `position` on.

    Raises `Malformed` if the frame begins or ends inside a block of the prompt.
    """
    chunk = limits.PREFILL_CHUNK_ROWS
    at, frame_end = position, position + rows
    while at < min(frame_end, prompt_rows):
        end = min((at // chunk + 1) * chunk, prompt_rows)
        if at % chunk or end > frame_end:
            raise Malformed(
                f"rows {position} to {frame_end - 1} do not hold whole blocks of a prompt of {prompt_rows}"
            )
        yield at, end
        at = end
    for row in range(at, frame_end):
        yield row, row + 1


def fast_spans(position: int, rows: int) -> Iterator[tuple[int, int]]:
    """Pieces that keep the attention mask small."""
    for start in range(position, position + rows, limits.PREFILL_CHUNK_ROWS):
        yield start, min(start + limits.PREFILL_CHUNK_ROWS, position + rows)
