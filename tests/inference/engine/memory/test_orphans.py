"""Which caches of the worker nobody has any more."""

from __future__ import annotations

from inference.engine.memory.orphans import Orphans
from protocols.ids import ModelDigest, SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheKey, ShardId

SHARD = ShardId(ModelDigest("ab" * 32), LayerRange(0, 4))
ONE: CacheKey = (SHARD, SessionId("01" * 16), 0)
TWO: CacheKey = (SHARD, SessionId("02" * 16), 0)


def test_what_is_unknown_at_two_looks_in_a_row_is_an_orphan() -> None:
    orphans = Orphans()
    assert orphans.look([ONE, TWO], {ONE}.__contains__) == []
    assert orphans.look([ONE, TWO], {ONE}.__contains__) == [TWO]


def test_what_is_just_being_opened_or_closed_is_none() -> None:
    orphans = Orphans()
    assert orphans.look([ONE], set[CacheKey]().__contains__) == []
    assert orphans.look([ONE, TWO], {ONE}.__contains__) == []
    assert orphans.look([ONE], set[CacheKey]().__contains__) == []
    assert orphans.look([], set[CacheKey]().__contains__) == []
