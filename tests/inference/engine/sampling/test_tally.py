"""The tokens so far: counts that follow the cache back and forth."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.sampling.tally import Tally

PROMPT_ROWS = 5


def counts(tally: Tally) -> tuple[set[int], dict[int, int]]:
    ids, times = tally.generated()
    return set(tally.seen().tolist()), dict(zip(ids.tolist(), times.tolist(), strict=True))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(0, 9), min_size=1, max_size=8)), max_size=20)
)
def test_counts_are_those_of_the_rows_that_stand_whatever_was_written_before(
    writes: list[tuple[int, list[int]]],
) -> None:
    tally, rows = Tally(PROMPT_ROWS), list[int]()
    for at, tokens in writes:
        position = min(at, len(rows))
        rows = rows[:position] + tokens
        tally.write(position, tokens)
    assert list(tally.tokens) == rows
    assert counts(tally) == (set(rows), dict(Counter(rows[PROMPT_ROWS:])))


def test_more_distinct_tokens_than_there_was_room_for_are_counted() -> None:
    tally = Tally(1)
    tally.write(0, [7])
    tally.write(1, range(1000, 1300))
    seen, generated = counts(tally)
    assert seen == {7, *range(1000, 1300)}
    assert generated == dict.fromkeys(range(1000, 1300), 1)
