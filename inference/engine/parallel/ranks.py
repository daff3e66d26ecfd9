"""What a shard asks of the other ranks that compute it: their summands, the rows that come in, one mind about what is kept.

    sum     every rank's part, added in the order of the ranks, whatever rows there are
    share   the first rank's rows, everywhere
    agree   whether all say yes

The rule of the file: all ranks make the same calls in the same order. Parts are gathered as they came out of their products,
and every rank adds them for itself, in float32, and rounds once. A reduction by a network would add in an order of its own, that
goes by the size of what is sent for more than two ranks: then a row would not have the bits that it has alone. So gathered, it has
(Contract.is_batch_invariant), and all ranks have the same. For two ranks it sends no byte more.

How bytes go from rank to rank is an `Exchange`: the sockets of inference/engine/parallel/pairs.py within a host's memory,
torch.distributed (inference/engine/parallel/distributed.py) between devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from inference.engine.parallel.orders import CacheKey
from inference.engine.parallel.slices import WHOLE, Slice
from protocols.tensor import Frame


class Ranks(Protocol):
    """As one shard sees them."""

    @property
    def own(self) -> Slice: ...
    def begin(self, work: Mapping[CacheKey, Frame]) -> None:
        """These frames, which are right, are computed next."""

    def begin_trial(self, rows: int, layer: int) -> None:
        """A layer is tried next, with so many rows."""

    def share(self, rows: Tensor) -> Tensor: ...
    def sum(self, part: Tensor) -> Tensor: ...
    def agree(self, *, is_so: bool) -> bool: ...


class Exchange(Protocol):
    """Between all ranks, which call it alike, with tensors that lie in `place`. Raises `RankLost` where one has ended, or is silent for
    too long."""

    @property
    def place(self) -> torch.device: ...

    def gather(self, part: Tensor) -> Sequence[Tensor]:
        """Everybody's, in the order of the ranks; contiguous tensors of one shape and type."""

    def share(self, rows: Tensor) -> None:
        """Fills it with what the first rank has in it."""


class Alone:
    """One rank, which has nobody to wait for."""

    def __init__(self, own: Slice = WHOLE) -> None:
        self.own = own

    def begin(self, work: Mapping[CacheKey, Frame]) -> None:
        pass

    def begin_trial(self, rows: int, layer: int) -> None:
        pass

    def share(self, rows: Tensor) -> Tensor:
        return rows

    def sum(self, part: Tensor) -> Tensor:
        return part

    def agree(self, *, is_so: bool) -> bool:
        return is_so


ALONE: Final = Alone()


class Group(Alone):
    """Several, of which this process is one."""

    def __init__(self, own: Slice, exchange: Exchange) -> None:
        super().__init__(own)
        self._exchange = exchange

    def share(self, rows: Tensor) -> Tensor:
        self._exchange.share(rows)
        return rows

    def sum(self, part: Tensor) -> Tensor:
        return added(self._exchange.gather(part.contiguous()))

    def agree(self, *, is_so: bool) -> bool:
        asked = torch.tensor([is_so], dtype=torch.uint8, device=self._exchange.place)
        return all(map(bool, self._exchange.gather(asked)))


def added(parts: Sequence[Tensor]) -> Tensor:
    """In order, in float32, rounded once."""
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part
    return total.to(parts[0].dtype)
