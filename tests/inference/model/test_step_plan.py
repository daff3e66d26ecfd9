"""What rows may see: everything before them, or as many keys as the window of their layer has."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.model.step_plan import make_spans
from tests.inference.engine.checkpoints import parsed


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 128), st.integers(1, 400))
def test_a_row_sees_itself_and_the_rows_before_it_within_the_window(
    start: int, rows: int, window: int
) -> None:
    config = parsed("gemma2", sliding_window=window)
    end = start + rows
    (span,) = make_spans(config, [(start, end)], torch.float32)
    assert (span.start, span.end) == (start, end)
    for kind, view in zip(config.kinds, span.views, strict=True):
        seen = torch.zeros(config.group * rows, end, dtype=torch.bool)
        seen[:, view.first :] = True if view.mask is None else view.mask == 0
        for row in range(rows):
            at = start + row
            first = max(0, at + 1 - kind.window) if kind.window else 0
            expected = [first <= key <= at for key in range(end)]
            # Queries of a group stand one below the other: the rows once for each.
            assert all(seen[row + rows * query].tolist() == expected for query in range(config.group))


def test_a_lone_row_needs_no_mask_and_reads_no_key_that_it_does_not_see() -> None:
    config = parsed("gemma2", sliding_window=40)
    (span,) = make_spans(config, [(99, 100)], torch.float32)
    assert [(view.first, view.mask) for view in span.views] == [(60, None), (0, None)]


def test_masks_take_no_more_keys_than_a_window_and_its_rows() -> None:
    config = parsed("mistral", sliding_window=40)
    (span,) = make_spans(config, [(384, 512)], torch.float32)
    (view,) = span.views
    assert view.mask is not None
    assert view.mask.shape == (2 * 128, 128 + 39)
