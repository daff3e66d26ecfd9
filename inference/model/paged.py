"""Attention over caches that lie in pages of one pool, for all rows of a step in one call: what an accelerator wants.

    pool     [pages * PAGE_ROWS, kv_heads, width] of keys, and as much of values, at every layer
    session  a table of its pages: row r lies in slot table[r // PAGE_ROWS] * PAGE_ROWS + r % PAGE_ROWS

The rows of a step are padded to as many queries for every sequence as the longest has, and the keys to as many pages. What is
padded is masked. A masked key still takes part, with weight 0, and 0 times NaN is NaN: so what a slot holds that is not in
use is always zero (inference/engine/memory/pages.py), and a sequence is padded with pages of its own. Where every sequence has
one row, pages are padded to few different numbers, so that the shapes of a step are seldom new (inference/engine/recordings.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from inference.model.blocks import attention
from inference.model.config import ModelConfig
from inference.model.kv_form import KvForm

PAGE_ROWS: Final = 64

_FEW_PAGES: Final = (
    8  # a decode step sees a power of two of them up to here, and multiples of it from here on
)

Send = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Brings tensors of the processor, one below the other, to where the pool lies."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The new rows of one sequence: `rows` of them from `position` on, all of them in `pages`."""

    pages: Sequence[int]
    position: int
    rows: int

    @property
    def end(self) -> int:
        return self.position + self.rows


def slots_of(pages: Sequence[int], start: int, end: int) -> list[int]:
    """Where rows `start` to `end` - 1 lie."""
    return [pages[row // PAGE_ROWS] * PAGE_ROWS + row % PAGE_ROWS for row in range(start, end)]


class LayerPages:
    """The pool of one layer."""

    def __init__(self, kv_heads: int, head_dim: int, form: KvForm, place: torch.device) -> None:
        self.keys = torch.zeros(0, kv_heads, form.width(head_dim), dtype=form.stored_dtype, device=place)
        self.values = torch.zeros_like(self.keys)
        self._form = form

    def resize(self, pages: int) -> None:
        """New pages are zero. Keys first, then values: no more than one of the two is there twice."""
        self.keys = _resized(self.keys, pages * PAGE_ROWS)
        self.values = _resized(self.values, pages * PAGE_ROWS)

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Both [rows, kv_heads, head_dim]."""
        self.put(slots, *self._form.stored(keys, values))

    def put(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Both [rows, kv_heads, width], as they are to lie here."""
        self.keys.index_copy_(0, slots, keys)
        self.values.index_copy_(0, slots, values)

    def gather(self, pages: Tensor) -> tuple[Tensor, Tensor]:
        """[sequences, pages] -> keys and values, each [sequences, kv_heads, rows, head_dim]."""
        keys, values = _gathered(self.keys, pages), _gathered(self.values, pages)
        return self._form.read(keys), self._form.read(values)


@dataclass(frozen=True, slots=True)
class PagedView:
    """What the sequences of a step see in one kind of layer."""

    pages: Tensor  # [sequences, pages]
    mask: Tensor  # [sequences, 1, group * queries, pages * PAGE_ROWS], 0 or -inf


@dataclass(frozen=True, slots=True)
class PagedStep:
    """Where the rows of a step go and what they see; the same in all layers."""

    slots: Tensor  # [rows]
    queries: Tensor  # [sequences, queries]: the row that each is; padding repeats a sequence's last
    answers: Tensor  # [rows]: which of all queries each is
    views: tuple[PagedView, ...]  # for every width of a window
    view_of: tuple[int, ...]  # for every kind of layer

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        views = [tensor for view in self.views for tensor in (view.pages, view.mask)]
        return (self.slots, self.queries, self.answers, *views)

    def over(self, tensors: Sequence[Tensor]) -> PagedStep:
        """The same step with others in the places of its own."""
        slots, queries, answers, *views = tensors
        pairs = zip(views[::2], views[1::2], strict=True)
        return PagedStep(slots, queries, answers, tuple(PagedView(*pair) for pair in pairs), self.view_of)


@dataclass(frozen=True, slots=True)
class PagedLayer:
    """Implements `inference.model.blocks.StepKv` for one step at one layer."""

    step: PagedStep
    pool: LayerPages

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kind: int, scale: float, cap: float) -> Tensor:
        step = self.step
        view = step.views[step.view_of[kind]]
        self.pool.write(step.slots, k, v)
        keys, values = self.pool.gather(view.pages)
        (sequences, queries), kv_heads, head_dim = step.queries.shape, k.shape[1], k.shape[2]
        grouped = q[step.queries].view(sequences, queries, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
        grouped = grouped.reshape(sequences, kv_heads, -1, head_dim)  # group * queries of them
        out = attention(grouped, keys, values, view.mask, scale, cap)
        out = out.view(sequences, kv_heads, -1, queries, head_dim).permute(0, 3, 1, 2, 4)
        return out.reshape(sequences * queries, -1).index_select(0, step.answers)


def make_paged_step(
    config: ModelConfig, stretches: Sequence[Stretch], dtype: torch.dtype, send: Send
) -> PagedStep:
    """The plan of one step, sent as one tensor of whole numbers."""
    queries = max(stretch.rows for stretch in stretches)
    windows = tuple(dict.fromkeys(kind.window for kind in config.kinds))
    slots = [slot for each in stretches for slot in slots_of(each.pages, each.position, each.end)]
    steps = [min(query, stretch.rows - 1) for stretch in stretches for query in range(queries)]
    firsts, first = [], 0  # rows of x that come before those of a sequence
    for stretch in stretches:
        firsts.append(first)
        first += stretch.rows
    rows = torch.tensor(steps).view(len(stretches), queries)
    numbers = [
        torch.tensor(slots),
        rows + torch.tensor(firsts)[:, None],
        torch.tensor(
            [at * queries + row for at, stretch in enumerate(stretches) for row in range(stretch.rows)]
        ),
        rows + torch.tensor([stretch.position for stretch in stretches])[:, None],
    ]
    for window in windows:
        numbers += _table(stretches, window)
    written, asked, answers, positions, *tables = _sent(numbers, send)
    views = []
    for window, pages, begin in zip(windows, tables[::2], tables[1::2], strict=True):
        mask = _mask(begin, pages.shape[1], positions, window, config.group, dtype)
        views.append(PagedView(pages, mask))
    view_of = tuple(windows.index(kind.window) for kind in config.kinds)
    return PagedStep(written, asked, answers, tuple(views), view_of)


def _sent(numbers: Sequence[Tensor], send: Send) -> list[Tensor]:
    """All of them in one go."""
    (packed,) = send([torch.cat([number.flatten() for number in numbers])])
    parts = torch.split(packed, [number.numel() for number in numbers])
    return [part.view(number.shape) for part, number in zip(parts, numbers, strict=True)]


def _table(stretches: Sequence[Stretch], window: int) -> tuple[Tensor, Tensor]:
    """The pages that each sequence sees, padded with its own, and the position of the first key in them, [sequences, 1]."""
    firsts = [max(0, each.position + 1 - window) // PAGE_ROWS if window else 0 for each in stretches]
    seen = [
        each.pages[first : -(-each.end // PAGE_ROWS)] for each, first in zip(stretches, firsts, strict=True)
    ]
    longest = max(map(len, seen))
    if all(each.rows == 1 for each in stretches):
        longest = _rounded_up(longest)
    table = [[*pages, *[pages[0]] * (longest - len(pages))] for pages in seen]
    return torch.tensor(table), torch.tensor(firsts)[:, None] * PAGE_ROWS


def _rounded_up(pages: int) -> int:
    if pages > _FEW_PAGES:
        return -(-pages // _FEW_PAGES) * _FEW_PAGES
    return 1 << (pages - 1).bit_length()


def _mask(
    firsts: Tensor, pages: int, positions: Tensor, window: int, group: int, dtype: torch.dtype
) -> Tensor:
    """What queries at `positions` [sequences, queries] may not see; padding lies behind all that they may."""
    keys = (firsts + torch.arange(pages * PAGE_ROWS, device=firsts.device))[:, None]  # [sequences, 1, keys]
    hidden = keys > positions[..., None]
    if window:
        hidden |= keys <= positions[..., None] - window
    mask = torch.zeros(hidden.shape, dtype=dtype, device=firsts.device).masked_fill_(hidden, float("-inf"))
    return mask.repeat(1, group, 1)[:, None]


def _resized(rows: Tensor, count: int) -> Tensor:
    if len(rows) == count:
        return rows
    resized = rows.new_zeros(count, *rows.shape[1:])
    kept = min(count, len(rows))
    resized[:kept] = rows[:kept]
    return resized


def _gathered(rows: Tensor, pages: Tensor) -> Tensor:
    found = rows.view(-1, PAGE_ROWS, *rows.shape[1:])[
        pages
    ]  # [sequences, pages, PAGE_ROWS, kv_heads, head_dim]
    return found.flatten(1, 2).transpose(1, 2)
