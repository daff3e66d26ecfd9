"""What the daemon knows of the worker's memory without asking it."""

from __future__ import annotations

from inference.engine.worker.books import WorkerBooks
from protocols.ids import ModelDigest, SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheKey, CacheUse, ShardId

SHARD = ShardId(ModelDigest("ab" * 32), LayerRange(0, 4))
KEY: CacheKey = (SHARD, SessionId("01" * 16), 0)


def test_a_cache_counts_whole_and_what_was_written_of_it_is_known() -> None:
    books = WorkerBooks(10_000)
    books.loaded(SHARD, 3000)
    books.opened(KEY, 1000, 100)
    assert (books.free_bytes, books.promised_bytes) == (6000, 1000)
    books.wrote(KEY, 30)
    books.wrote(KEY, 20)  # a page that was written stays
    assert (books.free_bytes, books.promised_bytes) == (6000, 700)
    assert books.memory().caches == (CacheUse(*KEY, 1000, 300),)
    books.wrote(KEY, 4000)
    assert books.promised_bytes == 0


def test_rows_that_were_taken_over_are_written_and_what_is_kept_is_free() -> None:
    books = WorkerBooks(10_000)
    books.opened(KEY, 1000, 100, 30)
    books.kept(2500)
    assert (books.free_bytes, books.promised_bytes) == (9000, 700)
    assert books.memory().prefix_bytes == 2500
    books.lost()
    assert books.memory().prefix_bytes == 0


def test_what_ends_gives_everything_back() -> None:
    books = WorkerBooks(10_000)
    books.loaded(SHARD, 3000)
    books.opened(KEY, 1000, 100)
    books.closed(KEY)
    books.closed(KEY)
    books.wrote(KEY, 5)
    assert (books.free_bytes, books.promised_bytes) == (7000, 0)
    books.opened(KEY, 1000, 100)
    books.lost()
    assert books.free_bytes == 10_000
    assert books.memory().caches == ()
