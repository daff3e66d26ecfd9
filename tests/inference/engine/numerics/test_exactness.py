"""Cutting frames: rows into blocks, and rows into attention spans."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.numerics.exactness import BLOCK_ROWS, WHOLE_FRAMES, RowPlan, exact_spans, fast_spans
from protocols.errors import Malformed
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK

EXACT_PLANS = st.sets(st.sampled_from(BLOCK_ROWS), min_size=1).map(
    lambda sizes: RowPlan(tuple(sorted(sizes)))
)
PLANS = EXACT_PLANS | st.just(WHOLE_FRAMES)


@settings(deadline=None)
@given(PLANS, st.integers(1, 600))
def test_blocks_follow_each_other_and_cover_the_padded_rows(plan: RowPlan, rows: int) -> None:
    blocks = plan.blocks(rows)
    assert blocks[0].start == 0
    assert blocks[-1].stop == plan.padded(rows) >= rows
    assert all(before.stop == after.start for before, after in itertools.pairwise(blocks))
    assert all(block.start < rows for block in blocks)


@settings(deadline=None)
@given(EXACT_PLANS, st.integers(1, 600))
def test_exact_blocks_have_the_sizes_of_the_plan_only(plan: RowPlan, rows: int) -> None:
    assert {block.stop - block.start for block in plan.blocks(rows)} <= set(plan.sizes)


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(1, [4]), (4, [4]), (5, [16]), (17, [32]), (32, [32]), (33, [32, 4]), (48, [32, 16]), (128, [32] * 4)],
)
def test_a_tail_takes_the_smallest_block_that_holds_it(rows: int, sizes: list[int]) -> None:
    assert [block.stop - block.start for block in RowPlan((4, 16, 32)).blocks(rows)] == sizes


def test_fast_numerics_take_a_frame_whole() -> None:
    assert WHOLE_FRAMES.blocks(77) == (slice(0, 77),)


@st.composite
def cut_frames(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """(prompt rows, all rows, where frames begin), with cuts only where frames of exact numerics may be cut."""
    prompt_rows = draw(st.integers(1, 400))
    rows = prompt_rows + draw(st.integers(0, 40))
    allowed = [*range(0, prompt_rows, CHUNK), *range(prompt_rows, rows)]
    cuts = draw(st.sets(st.sampled_from(allowed)))
    return prompt_rows, rows, sorted(cuts | {0})


@settings(deadline=None)
@given(cut_frames())
def test_spans_are_the_same_however_the_rows_are_cut_into_frames(cut: tuple[int, int, list[int]]) -> None:
    prompt_rows, rows, starts = cut
    at_once = list(exact_spans(0, rows, prompt_rows))
    in_frames = [
        span
        for start, end in zip(starts, [*starts[1:], rows], strict=True)
        for span in exact_spans(start, end - start, prompt_rows)
    ]
    assert in_frames == at_once


def test_prompt_rows_attend_in_chunks_and_later_rows_alone() -> None:
    assert list(exact_spans(0, 203, 200)) == [(0, 128), (128, 200), (200, 201), (201, 202), (202, 203)]
    assert list(exact_spans(128, 72, 200)) == [(128, 200)]


@pytest.mark.parametrize(
    ("position", "rows"),
    [(0, 100), (1, 199), (64, 64), (128, 71), (0, 199)],
)
def test_a_frame_that_cuts_a_prompt_block_is_malformed(position: int, rows: int) -> None:
    with pytest.raises(Malformed, match="whole blocks"):
        list(exact_spans(position, rows, 200))


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 500))
def test_fast_spans_cover_the_frame_in_pieces_of_a_bounded_mask(position: int, rows: int) -> None:
    spans = list(fast_spans(position, rows))
    assert spans[0][0] == position
    assert spans[-1][1] == position + rows
    assert all(0 < end - start <= CHUNK for start, end in spans)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
