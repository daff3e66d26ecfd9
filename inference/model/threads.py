"""How many threads a call is worth. To wake another one takes about 90 us where threads that wait sleep: what a step of few rows
does to them takes less, and products with megabytes of weights take more.

    few rows    one thread, but for products, and for attention over many keys
    more rows   all of them, but for attention over few keys

What happens to rows by themselves comes out the same on any number of threads, which the self-test shows
(inference/engine/numerics/selftest.py): rows alone are too short to be cut up, and blocks are not. Products and attention may round
by their threads, and have as many in every step that a row may come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

import torch

_FEW_ROWS: Final = 32

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Within it a call has the threads that so many rows are worth, unless it has a number of its own."""
    before = torch.get_num_threads()
    if before == 1 or rows > _FEW_ROWS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_all_threads(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same with as many threads as there are now, wherever it is called."""
    return _on(torch.get_num_threads(), call)


def on_one_thread(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same with one thread, wherever it is called."""
    return _on(1, call)


def _on(threads: int, call: Callable[_P, _R]) -> Callable[_P, _R]:
    def on(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        before = torch.get_num_threads()
        if before == threads:
            return call(*args, **kwargs)
        torch.set_num_threads(threads)
        try:
            return call(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return on
