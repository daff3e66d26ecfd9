"""Who may have how much of a worker's memory for caches, and what is seen of rows in 8 bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.memory.kv_cache import KvBudget, KvCache
from inference.engine.memory.kv_layer import KvBench
from inference.model.kv_form import make_form
from protocols.errors import Overloaded
from protocols.ids import PeerId, SessionId
from tests.inference.engine.checkpoints import parsed

ADA, BOB = PeerId("ada"), PeerId("bob")
ONE, TWO, THREE, FOUR = (SessionId(str(index)) for index in range(4))


def test_one_session_has_half_and_one_peer_three_quarters() -> None:
    budget = KvBudget(100)
    budget.reserve(50, ONE, ADA)
    with pytest.raises(Overloaded, match="into the 0 left for one session"):
        budget.reserve(1, ONE, ADA)
    with pytest.raises(Overloaded, match="into the 25 left for the sessions of one peer"):
        budget.reserve(26, TWO, ADA)
    budget.reserve(25, TWO, ADA)
    budget.reserve(25, THREE, BOB)
    with pytest.raises(Overloaded, match="into the 0 left for all sessions"):
        budget.reserve(1, FOUR, BOB)


def test_what_ranges_were_planned_with_is_there_for_a_single_session() -> None:
    budget = KvBudget(100, planned_bytes=90)
    budget.reserve(90, ONE, ADA)
    with pytest.raises(Overloaded, match="one session"):
        budget.reserve(1, ONE, ADA)
    with pytest.raises(Overloaded, match="one peer"):
        budget.reserve(1, TWO, ADA)
    budget.reserve(10, TWO, BOB)


def test_a_refused_cache_leaves_nothing_reserved() -> None:
    budget = KvBudget(100)
    for size_bytes in (51, 101):
        with pytest.raises(Overloaded):
            budget.reserve(size_bytes, ONE, ADA)
    assert (budget.reserved_bytes, budget.holders) == (0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from([ONE, TWO, THREE, FOUR]), st.sampled_from([ADA, BOB]), st.integers(0, 60))
    )
)
def test_nothing_is_left_when_all_sessions_have_ended(
    caches: list[tuple[SessionId, PeerId, int]],
) -> None:
    budget, held = KvBudget(200), []
    for session, peer, size_bytes in caches:
        try:
            budget.reserve(size_bytes, session, peer)
        except Overloaded:
            continue
        held.append((size_bytes, session, peer))
        assert budget.reserved_bytes == sum(each[0] for each in held) <= 200
    for size_bytes, session, peer in held:
        budget.release(size_bytes, session, peer)
    assert (budget.reserved_bytes, budget.holders) == (0, 0)


ROUNDED = make_form("int8", torch.bfloat16)
CONFIG = parsed()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 1),
            st.integers(1, 40),
            st.lists(st.integers(0, 199), max_size=4),
        ),
        max_size=12,
    )
)
def test_whatever_was_read_before_what_is_read_is_what_lies_there(
    turns: list[tuple[int, int, int, list[int]]],
) -> None:
    """Steps of several sessions and layers in turns, each with some rows and several looks at them, windows included."""
    bench, generator = KvBench(ROUNDED, CONFIG.kv_heads, CONFIG.head_dim), torch.Generator().manual_seed(3)
    caches = [KvCache(CONFIG, 2, rows, ROUNDED, bench) for rows in (40, 200, 90)]
    written = [[0, 0] for _ in caches]
    for session, layer, rows, firsts in turns:
        kv, at = caches[session].layers[layer], written[session][layer]
        if at + rows > caches[session].rows_max:
            at = 0  # cut back
        drawn = torch.randn(2, rows, CONFIG.kv_heads, CONFIG.head_dim, generator=generator).bfloat16()
        kv.write(at, *drawn)
        written[session][layer] = at + rows
        for end in range(at + 1, at + rows + 1):
            for first in [first for first in firsts if first < end] or [0]:
                seen = kv.read(end, first)
                for found, lies in zip(seen, (kv.keys, kv.values), strict=True):
                    assert torch.equal(found[0], ROUNDED.read(lies[:, first:end]))
                    assert found.stride(2) == CONFIG.head_dim


def test_the_bench_is_as_large_as_the_longest_session_needs_and_goes_with_the_last() -> None:
    bench = KvBench(ROUNDED, CONFIG.kv_heads, CONFIG.head_dim)
    short, long = (KvCache(CONFIG, 2, rows, ROUNDED, bench) for rows in (10, 200))
    assert bench._items.shape == (2, CONFIG.kv_heads * 256 * CONFIG.head_dim)
    place = bench._items.data_ptr()
    for _ in range(3):
        KvCache(CONFIG, 2, 256, ROUNDED, bench).close()
    long.close()
    assert bench._items.data_ptr() == place
    short.close()
    assert bench._items.numel() == 0
