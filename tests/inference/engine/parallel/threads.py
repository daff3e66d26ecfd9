"""Ranks as threads of one process: the same sums, by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from inference.engine.parallel.ranks import Alone, added
from inference.engine.parallel.slices import Slice

T = TypeVar("T")


class Table:
    """Where so many threads put what they have, and take what all have."""

    def __init__(self, of: int) -> None:
        self.of = of
        self._barrier = threading.Barrier(of, timeout=60)
        self._parts: list[object] = [None] * of

    def exchange(self, rank: int, part: object) -> list[object]:
        self._parts[rank] = part
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts

    def leave(self) -> None:
        self._barrier.abort()


class ThreadRanks(Alone):
    def __init__(self, table: Table, rank: int) -> None:
        super().__init__(Slice(rank, table.of))
        self._table = table

    def share(self, rows: Tensor) -> Tensor:
        (first, *_) = self._table.exchange(self.own.rank, rows)
        assert isinstance(first, Tensor)
        return first.clone()

    def sum(self, part: Tensor) -> Tensor:
        parts = self._table.exchange(self.own.rank, part)
        return added([each for each in parts if isinstance(each, Tensor)])

    def agree(self, *, is_so: bool) -> bool:
        return all(self._table.exchange(self.own.rank, is_so))


def together(of: int, run: Callable[[ThreadRanks], T]) -> list[T]:
    """What each rank comes to."""
    table, found, failures = Table(of), {}, []

    def one(rank: int) -> None:
        try:
            found[rank] = run(ThreadRanks(table, rank))
        except BaseException as error:
            failures.append(error)
            table.leave()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(of)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure
    return [found[rank] for rank in range(of)]
