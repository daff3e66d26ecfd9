"""Ranks as threads of one process: the same sums, by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from inference.engine.parallel.ranks import Alone, added
from inference.engine.parallel.slices import Slice

T = TypeVar("T")
PATIENCE_S = 60  # where a rank has failed, the others wait for nobody


class Table:
    """Where so many threads put what they have, and take what all have."""

    def __init__(self, of: int) -> None:
        self.of = of
        self._barrier = threading.Barrier(of, timeout=PATIENCE_S)
        self._parts: list[object] = [None] * of

    def exchange(self, rank: int, part: object) -> list[object]:
        self._parts[rank] = part
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts


@dataclass(frozen=True)
class ThreadExchange:
    table: Table
    rank: int
    place = torch.device("cpu")

    def gather(self, part: Tensor) -> Sequence[Tensor]:
        return [each for each in self.table.exchange(self.rank, part) if isinstance(each, Tensor)]

    def share(self, rows: Tensor) -> None:
        first, *_ = self.table.exchange(self.rank, rows.clone())
        assert isinstance(first, Tensor)
        rows.copy_(first)


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
    table = Table(of)
    with ThreadPoolExecutor(of) as threads:
        return list(threads.map(run, [ThreadRanks(table, rank) for rank in range(of)]))
