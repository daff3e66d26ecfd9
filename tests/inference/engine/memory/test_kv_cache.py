"""Who may have how much of a worker's memory for caches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.memory.kv_cache import KvBudget
from protocols.errors import Overloaded
from protocols.ids import PeerId, SessionId

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
