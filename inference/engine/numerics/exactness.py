"""How the rows of a frame are cut so that a row's bits do not depend on the rows computed with it; no torch here.

A replay after a failure carries in one frame what was decoded row by row, and must give the same keys and values. Two
things stand in the way: matrix kernels sum in another order for other row counts, and attention does so for other
query counts.

* Products, norms and activations run in blocks of a few sizes only: the self-test finds those whose rows agree bit for
  bit at every place, and what is left of a frame is padded to the smallest of them that takes it.
* Attention runs over the same spans whether rows are new or replayed: prompt rows in blocks that start at multiples of
  `PREFILL_CHUNK_ROWS`, later rows one by one. Frames hold whole prompt blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from protocols import limits
from protocols.errors import Malformed

LONE_ROWS: Final = (1, 4, 16)
BLOCK_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class RowPlan:
    """The block sizes, ascending; with none a frame is taken whole, as fast numerics do."""

    sizes: tuple[int, ...] = ()

    @property
    def lone(self) -> int:
        """How many rows are computed for a single one."""
        return self.sizes[0] if self.sizes else 1

    def padded(self, rows: int) -> int:
        """How many rows are computed for `rows`."""
        if not self.sizes:
            return rows
        whole, tail = divmod(rows, self.sizes[-1])
        padding = next(size for size in self.sizes if size >= tail) if tail else 0
        return whole * self.sizes[-1] + padding

    def blocks(self, rows: int) -> tuple[slice, ...]:
        """Slices of the padded rows, in order and without gaps."""
        padded = self.padded(rows)
        step = self.sizes[-1] if self.sizes else padded
        return tuple(slice(start, min(start + step, padded)) for start in range(0, padded, step))

    def __str__(self) -> str:
        return "+".join(map(str, self.sizes)) or "whole"


WHOLE_FRAMES: Final = RowPlan()


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
