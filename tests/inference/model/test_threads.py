"""Few rows have one thread, and what is worth more has all of them; nothing comes out otherwise for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from inference.model.threads import on_all_threads, on_one_thread, threads_for


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (32, 1), (33, 2), (512, 2)])
def test_few_rows_have_one_thread_and_many_have_all(rows: int, threads: int) -> None:
    with threads_for(rows):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_call_may_have_a_number_of_its_own_in_any_step() -> None:
    many, one = on_all_threads(torch.get_num_threads), on_one_thread(torch.get_num_threads)
    with threads_for(1):
        assert (many(), one(), torch.get_num_threads()) == (2, 1, 1)
    assert (many(), one(), torch.get_num_threads()) == (2, 1, 2)


@pytest.mark.usefixtures("two_threads")
def test_a_call_that_fails_leaves_the_threads_as_they_were() -> None:
    @on_all_threads
    def fails() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError), threads_for(1):
        with pytest.raises(RuntimeError):
            fails()
        assert torch.get_num_threads() == 1
        fails()
    assert torch.get_num_threads() == 2
