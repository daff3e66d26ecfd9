"""Push-pull repair: two neighbours compare what they hold, bucket by bucket, and each gets what it lacks.

Ids of bundles fall into buckets by their first byte. A digest has the exclusive or of the heads of the ids in every bucket,
in as many buckets as the table needs, so that equal tables cost a few hundred bytes. Only bundles with a word that stands
are held at all, so what was superseded is never repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from protocols import limits
from protocols.errors import Malformed
from protocols.gossip import SUM_BYTES, BundleId, Digest, Listing, join_ids, split_ids

BUCKETS_MIN: Final = 16
IDS_PER_BUCKET: Final = 4  # aimed at


def digest_of(ids: Collection[BundleId]) -> Digest:
    """What this node holds, in brief."""
    count = BUCKETS_MIN
    while count < limits.GOSSIP_BUCKETS_MAX and count * IDS_PER_BUCKET < len(ids):
        count *= 2
    return Digest(_sums(ids, count))


def _sums(ids: Iterable[BundleId], count: int) -> bytes:
    sums = [0] * count
    for id_ in ids:
        sums[id_[0] % count] ^= int.from_bytes(id_[:SUM_BYTES])
    return b"".join(each.to_bytes(SUM_BYTES) for each in sums)


def listing_for(digest: Digest, ids: Collection[BundleId]) -> tuple[Listing | None, bool]:
    """All that is held in the buckets that differ, None if none does; and whether that was too much for one message.

    Raises `Malformed` for a digest that is none.
    """
    if len(digest.sums) % SUM_BYTES:
        raise Malformed("a digest ends inside a bucket")
    count = len(digest.sums) // SUM_BYTES
    own = _sums(ids, count)
    differing = [
        bucket
        for bucket in range(count)
        if own[bucket * SUM_BYTES : (bucket + 1) * SUM_BYTES]
        != digest.sums[bucket * SUM_BYTES : (bucket + 1) * SUM_BYTES]
    ]
    if not differing:
        return None, False
    held = _by_bucket(ids, count, differing)
    listed: list[int] = []
    named: list[BundleId] = []
    for bucket in differing:
        if len(named) + len(held[bucket]) > limits.GOSSIP_IDS_MAX:
            break
        listed.append(bucket)
        named += held[bucket]
    return Listing(count, bytes(listed), join_ids(named)), len(listed) < len(differing)


def _by_bucket(ids: Iterable[BundleId], count: int, buckets: Iterable[int]) -> dict[int, list[BundleId]]:
    held: dict[int, list[BundleId]] = {bucket: [] for bucket in buckets}
    for id_ in ids:
        if (bucket := id_[0] % count) in held:
            held[bucket].append(id_)
    return held


def compare(
    listing: Listing, ids: Collection[BundleId], is_wanted: Callable[[BundleId], bool]
) -> tuple[list[BundleId], list[BundleId]]:
    """What to ask the other for, and what it lacks. Raises `Malformed` for ids outside the buckets that are listed."""
    theirs = frozenset(split_ids(listing.ids))
    buckets = frozenset(listing.buckets)
    if any(id_[0] % listing.count not in buckets for id_ in theirs) or any(
        bucket >= listing.count for bucket in buckets
    ):
        raise Malformed("a listing has ids outside its buckets")
    held = _by_bucket(ids, listing.count, sorted(buckets))
    lacking = [id_ for ours in held.values() for id_ in ours if id_ not in theirs]
    return [id_ for id_ in sorted(theirs) if is_wanted(id_)], lacking
