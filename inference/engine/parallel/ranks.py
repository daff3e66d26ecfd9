"""What a shard asks of the other ranks that compute it: their summands, the rows that come in, one mind about what is kept.

    sum     every rank's part, added in the order of the ranks, whatever rows there are
    share   the first rank's rows, everywhere
    agree   whether all say yes

The rule of the file: all ranks make the same calls in the same order. Parts are gathered as they came out of their products,
and every rank adds them for itself, in float32, and rounds once. A reduction by the network would add in an order of its own, that
goes by the size of what is sent for more than two ranks: then a row would not have the bits that it has alone. So gathered, it has
(Contract.is_batch_invariant), and all ranks have the same. For two ranks it sends no byte more.

With torch.distributed: gloo between processors, of one host, by its loopback interface.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from inference.engine.parallel.orders import CacheKey, RankLost
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
    """Processes that have joined one group of torch.distributed, of which this one has `own`."""

    def share(self, rows: Tensor) -> Tensor:
        with _together():
            dist.broadcast(rows.view(torch.uint8), 0)
        return rows

    def sum(self, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part) for _ in range(self.own.of)]
        with _together():
            dist.all_gather(parts, part)
        return added(parts)

    def agree(self, *, is_so: bool) -> bool:
        said = torch.tensor([is_so], dtype=torch.int32)
        with _together():
            dist.all_reduce(said, dist.ReduceOp.MIN)
        return bool(said)


def added(parts: Sequence[Tensor]) -> Tensor:
    """In order, in float32, rounded once."""
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part
    return total.to(parts[0].dtype)


def join(own: Slice, meeting: str, silence_s: float) -> None:
    """Make this process one of the group; `meeting` is a file that does not exist yet, the same for all. Returns when all have
    joined. From then on no rank is waited for longer than `silence_s`. Raises `RankLost`."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    os.environ["GLOO_SOCKET_IFNAME"] = names[
        0
    ]  # read by gloo, that otherwise asks what the host's name leads to
    with _together():
        dist.init_process_group(
            "gloo",
            init_method=f"file://{meeting}",
            rank=own.rank,
            world_size=own.of,
            timeout=timedelta(seconds=silence_s),
        )


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLost("a process that shares the layers has ended or hangs") from error
