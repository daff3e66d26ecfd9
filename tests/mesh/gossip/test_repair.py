"""Push-pull repair: two tables compared in three messages."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gossip.repair import compare, digest_of, listing_for
from protocols import limits
from protocols.errors import Malformed
from protocols.gossip import GOSSIP_CODEC, SUM_BYTES, BundleId, Digest, Listing


def ids(*numbers: int) -> set[BundleId]:
    return {BundleId(hashlib.sha256(str(number).encode()).digest()[:16]) for number in numbers}


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)))
def test_both_learn_exactly_what_the_other_lacks(one: set[int], two: set[int]) -> None:
    ours, theirs = ids(*one), ids(*two)
    listing, is_cut = listing_for(digest_of(ours), theirs)
    assert not is_cut
    if ours == theirs:
        assert listing is None
        return
    assert listing is not None
    wanted, lacking = compare(listing, ours, lambda id_: id_ not in ours)
    assert set(wanted) == theirs - ours
    assert set(lacking) == ours - theirs


def test_equal_tables_cost_a_digest_and_no_answer() -> None:
    held = ids(*range(20))
    digest = digest_of(held)
    assert len(digest.sums) <= 16 * SUM_BYTES
    assert listing_for(digest, held) == (None, False)


def test_a_few_differences_in_a_large_table_name_a_few_buckets() -> None:
    held = ids(*range(5000))
    listing, _ = listing_for(digest_of(held), held | ids(*range(9000, 9010)))
    assert listing is not None
    assert len(listing.buckets) <= 10
    assert len(listing.ids) < 16 * 400


def test_what_does_not_fit_into_one_message_is_left_for_the_next() -> None:
    held = ids(*range(10_000))
    listing, is_cut = listing_for(digest_of(()), held)
    assert is_cut
    assert listing is not None
    assert 0 < len(listing.ids) <= 16 * limits.GOSSIP_IDS_MAX
    assert len(GOSSIP_CODEC.encode(listing)) < limits.CONTROL_BYTES_MAX
    wanted, lacking = compare(listing, (), lambda _: True)
    assert len(wanted) == len(listing.ids) // 16
    assert not lacking


@pytest.mark.parametrize(
    "listing",
    [
        Listing(16, b"\x01", bytes(16)),
        Listing(16, b"\x10", b""),
        Listing(16, b"\0", bytes(15)),
    ],
)
def test_a_listing_that_does_not_add_up_is_refused(listing: Listing) -> None:
    with pytest.raises(Malformed):
        compare(listing, (), lambda _: True)


def test_a_digest_that_ends_inside_a_bucket_is_refused() -> None:
    with pytest.raises(Malformed):
        listing_for(Digest(bytes(SUM_BYTES + 1)), ())
