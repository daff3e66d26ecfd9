"""How the rows of one step are computed: the blocks of the products, and what each row may see in each kind of layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.model.config import ModelConfig
from inference.model.rope import Angles


@dataclass(frozen=True, slots=True)
class View:
    """What the rows of a span see in one kind of layer: keys from `first` on. `mask` is None if they see all of those."""

    first: int
    mask: Tensor | None  # [group * rows, keys], 0 or -inf


@dataclass(frozen=True, slots=True)
class Span:
    """Rows that attend in one call: `start` to `end` - 1 by position, with a view for every kind of layer."""

    start: int
    end: int
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one sequence in a step: `rows` of them from row `start` of x on, at `position` of the sequence."""

    start: int
    position: int
    rows: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Blocks of the padded rows, and segments of the real ones."""

    blocks: tuple[slice, ...]
    segments: tuple[Segment, ...]
    angles: tuple[tuple[Angles, ...], ...]  # for every kind of layer, those of every block

    @property
    def rows(self) -> int:
        """The real ones."""
        return self.segments[-1].start + self.segments[-1].rows

    def cut(self, x: Tensor) -> Sequence[Tensor]:
        """The blocks of x [padded rows, ..]."""
        return (x,) if len(self.blocks) == 1 else [x[block] for block in self.blocks]


def make_plan(blocks: tuple[slice, ...], segments: tuple[Segment, ...], angles: Iterable[Angles]) -> StepPlan:
    """The plan with `angles` of all padded rows, for every kind of layer, cut into its blocks once and for all layers."""
    if len(blocks) == 1:
        return StepPlan(blocks, segments, tuple((each,) for each in angles))
    cut = tuple(tuple((cos[block], sin[block]) for block in blocks) for cos, sin in angles)
    return StepPlan(blocks, segments, cut)


def make_spans(
    config: ModelConfig, bounds: Iterable[tuple[int, int]], dtype: torch.dtype
) -> tuple[Span, ...]:
    """The (start, end) of each attention call of a sequence, with what its rows see."""
    windows = [kind.window for kind in config.kinds]
    return tuple(Span(start, end, _views(start, end, windows, config.group, dtype)) for start, end in bounds)


def _views(start: int, end: int, windows: Sequence[int], group: int, dtype: torch.dtype) -> tuple[View, ...]:
    found: dict[int, View] = {}
    for window in windows:
        # As long as all rows see the first key, the window hides nothing.
        width = window if 0 < window < end else 0
        if width not in found:
            first = max(0, start + 1 - width) if width else 0
            mask = None if end == start + 1 else causal_mask(start, end, group, dtype, width)
            found[width] = View(first, mask)
    return tuple(found[window if 0 < window < end else 0] for window in windows)


def causal_mask(start: int, end: int, group: int, dtype: torch.dtype, window: int = 0) -> Tensor:
    """What rows `start` to `end` - 1 may not see of the keys from the first one on that any of them sees, once per query head
    of a group: [group * rows, keys]. `window` 0: nothing before a row is hidden."""
    first = max(0, start + 1 - window) if window else 0
    hidden = torch.full((end - start, end - first), float("-inf"), dtype=dtype).triu(start - first + 1)
    if window:
        hidden += torch.full_like(hidden, float("-inf")).tril(start - first - window)
    return hidden.repeat(group, 1)
