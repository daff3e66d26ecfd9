"""How many threads a call is worth. To wake another one takes about 90 us where threads that wait sleep: what a step of few rows
does to them takes less, and products with megabytes of weights take more.

    few rows    one thread, but for products with large weights, and for attention over many keys
    more rows   all of them for everything

A number comes out the same on any number of threads: each is computed by one of them, and the self-test compares blocks that are
cut up with rows that are too short for that (inference/engine/numerics/selftest.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

import torch

_FEW_ROWS: Final = 32
_FEW_WEIGHTS: Final = 1 << 19  # read in less time than a thread takes to wake

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """Within it a call has the threads that so many rows are worth, unless it is `on_all_threads`."""
    before = torch.get_num_threads()
    if before == 1 or rows > _FEW_ROWS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_all_threads(call: Callable[_P, _R], weights: int = _FEW_WEIGHTS) -> Callable[_P, _R]:
    """The same with as many threads as there are now, wherever it is called; itself where it has too few `weights` for that."""
    threads = torch.get_num_threads()
    if threads == 1 or weights < _FEW_WEIGHTS:
        return call

    def on_all(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        before = torch.get_num_threads()
        if before == threads:
            return call(*args, **kwargs)
        torch.set_num_threads(threads)
        try:
            return call(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return on_all
