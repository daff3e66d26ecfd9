"""Rows go from every process to every other one whole, whatever their size; who is not there is waited for only so long."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from inference.engine.parallel.orders import RankLost
from inference.engine.parallel.pairs import CHUNK_BYTES, Pairs
from inference.engine.parallel.ranks import Group, added
from inference.engine.parallel.slices import Slice

OF = 3
Ends = dict[int, dict[int, socket.socket]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    found: Ends = {rank: {} for rank in range(OF)}
    for one, other in itertools.combinations(range(OF), 2):
        found[one][other], found[other][one] = socket.socketpair()
    yield found
    for each in found.values():
        for end in each.values():
            end.close()


def group(ends: Ends, rank: int, silence_s: float = 60) -> Group:
    own = Slice(rank, OF)
    return Group(own, Pairs(own, ends[rank], silence_s))


@pytest.mark.parametrize("rows", [1, 7, 6 * CHUNK_BYTES // 96])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ranks_have_the_same_sum_and_the_first_ones_rows(
    ends: Ends, rows: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(7)
    parts = [torch.randn(rows, 48).to(dtype) for _ in range(OF)]

    def run(rank: int) -> tuple[Tensor, Tensor, list[bool]]:
        ours, own = group(ends, rank), parts[rank]
        total = ours.sum(own.T.contiguous().T)  # not as it lies in memory
        shared = ours.share(own.clone())
        return total, shared, [ours.agree(is_so=is_so) for is_so in (True, rank != 1)]

    with ThreadPoolExecutor(OF) as threads:
        found = list(threads.map(run, range(OF)))
    for total, shared, agreed in found:
        assert torch.equal(total, added(parts))
        assert torch.equal(shared, parts[0])
        assert agreed == [True, False]


def test_who_has_ended_is_noticed_at_once(ends: Ends) -> None:
    for end in ends[2].values():
        end.close()
    with pytest.raises(RankLost):
        group(ends, 0).sum(torch.ones(1, 48))
    with pytest.raises(RankLost):
        group(ends, 1).sum(torch.ones(1, 48))


def test_who_is_silent_is_waited_for_only_so_long(ends: Ends) -> None:
    with pytest.raises(RankLost):
        group(ends, 0, silence_s=0.05).sum(torch.ones(1, 48))
    with pytest.raises(RankLost):  # nor does anybody take what is sent
        group(ends, 0, silence_s=0.05).share(torch.ones(1 << 20, 4))
