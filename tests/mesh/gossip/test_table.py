"""The table: whatever comes, in whatever order and however often, the newest word stands."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.gossip.table import Kept, Table
from protocols import limits
from protocols.gossip import Bundle, Heard, Item, Topic, encode_bundle, id_of
from simulations.network.internet import peer_id

ADA, BOB = peer_id(1), peer_id(2)
NOW = 1_800_000_000_000
HEALTH = int(Topic.HEALTH)


def merge(table: Table, bundle: Bundle, wall_ms: int = NOW) -> list[Heard]:
    body = encode_bundle(bundle)
    kept = Kept(id_of(body), bundle.author, bundle.sequence, body, bytes(64))
    items = table.newer(bundle, kept.id)
    return table.merge(bundle, kept, items, wall_ms) if items else []


def said(sequence: int, key: str = "k", body: bytes = b"x", ttl_s: int = 60, made_ms: int = NOW) -> Bundle:
    return Bundle(ADA, sequence, made_ms, (Item(HEALTH, key, body, ttl_s),))


def shown(table: Table, wall_ms: int = NOW) -> set[Heard]:
    return {heard for topic in Topic for heard in table.items(topic, wall_ms)}


ITEMS = st.builds(
    Item,
    st.sampled_from([1, 2, 7, 99]),
    st.sampled_from("abc"),
    st.sampled_from([b"", b"x", b"yy"]),
    st.sampled_from([1, 10, 60]),
)
BUNDLES = st.builds(
    Bundle,
    st.sampled_from([ADA, BOB]),
    st.integers(1, 6),
    st.sampled_from([NOW - 30_000, NOW, NOW + 5_000]),
    st.lists(ITEMS, min_size=1, max_size=4, unique_by=lambda item: (item.topic, item.key)).map(tuple),
)


@given(st.lists(BUNDLES, max_size=8), st.randoms(use_true_random=False))
def test_order_and_repetition_make_no_difference(bundles: list[Bundle], random: object) -> None:
    one, two = Table(), Table()
    for bundle in bundles:
        merge(one, bundle)
    shuffled = bundles + bundles[:3]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for bundle in shuffled:
        merge(two, bundle)
    for later_ms in (0, 20_000, 40_000):
        assert shown(one, NOW + later_ms) == shown(two, NOW + later_ms)
    assert one.bundles.keys() == two.bundles.keys()


@given(st.lists(BUNDLES, max_size=8))
def test_the_newest_of_every_place_stands_and_its_bundle_is_kept(bundles: list[Bundle]) -> None:
    table = Table()
    for bundle in bundles:
        merge(table, bundle)
    assert shown(table) == _newest(bundles)
    holding = {kept.id for author in table.authors.values() for kept in author.bundles.values()}
    assert holding == table.bundles.keys()
    assert all(kept.places for kept in table.bundles.values())
    for author in table.authors.values():
        assert author.size_bytes == sum(len(kept.body) for kept in author.bundles.values())


def _newest(bundles: Sequence[Bundle]) -> set[Heard]:
    newest: dict[object, tuple[object, int, Heard]] = {}
    for bundle in bundles:
        rank = (bundle.sequence, id_of(encode_bundle(bundle)))
        for item in bundle.items:
            if item.topic in set(Topic):
                topic = Topic(item.topic)
                heard = Heard(bundle.author, topic, item.key, item.body, bundle.made_ms, bundle.sequence)
                place = (bundle.author, topic, item.key)
                if place not in newest or newest[place][0] < rank:  # type: ignore[operator]
                    newest[place] = (rank, bundle.made_ms + item.ttl_s * 1000, heard)
    return {heard for _, expires_ms, heard in newest.values() if heard.body and expires_ms > NOW}


@given(st.lists(BUNDLES, max_size=8))
def test_nothing_is_left_when_everything_has_expired(bundles: list[Bundle]) -> None:
    table = Table()
    for bundle in bundles:
        merge(table, bundle)
    table.expire(NOW + 100_000)
    assert not table.authors
    assert not table.bundles
    assert not shown(table, 0)


def test_news_is_told_once() -> None:
    table = Table()
    assert [heard.body for heard in merge(table, said(5))] == [b"x"]
    assert merge(table, said(5)) == []
    assert merge(table, said(4)) == []


def test_what_was_replaced_by_something_shorter_lived_does_not_come_back() -> None:
    table = Table()
    merge(table, said(1, ttl_s=600))
    merge(table, said(2, body=b"", ttl_s=10))
    later_ms = NOW + 20_000
    table.expire(later_ms)
    assert merge(table, said(1, ttl_s=600), later_ms) == []
    assert not shown(table, later_ms)
    table.expire(NOW + 600_000)
    assert not table.authors


def test_a_withdrawn_word_is_kept_for_repair_until_it_expires() -> None:
    table = Table()
    merge(table, said(1))
    assert [heard.body for heard in merge(table, said(2, body=b""))] == [b""]
    assert not shown(table)
    assert len(table.bundles) == 1
    table.expire(NOW + 61_000)
    assert not table.bundles


def test_a_bundle_goes_with_the_last_word_that_stands_in_it() -> None:
    table = Table()
    merge(table, Bundle(ADA, 1, NOW, (Item(HEALTH, "a", b"x", 60), Item(HEALTH, "b", b"x", 60))))
    merge(table, said(2, "a"))
    assert len(table.bundles) == 2
    merge(table, said(3, "b"))
    assert len(table.bundles) == 2
    assert {kept.sequence for kept in table.bundles.values()} == {2, 3}


@pytest.mark.parametrize("size", [10, 30_000])
def test_an_author_that_says_too_much_loses_its_oldest_and_can_not_bring_it_back(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GOSSIP_AUTHOR_ITEMS_MAX", 20)
    table = Table()
    bundles = [said(number, str(number), bytes([number]) * size) for number in range(1, 60)]
    for bundle in bundles:
        merge(table, bundle)
    author = table.authors[ADA]
    assert author.size_bytes <= limits.GOSSIP_AUTHOR_BYTES_MAX
    assert len(author.words) <= 20
    assert max(heard.sequence for heard in shown(table)) == 59
    before = shown(table)
    for bundle in bundles:
        assert merge(table, bundle) == []
    assert shown(table) == before


def test_of_two_bundles_with_one_sequence_all_nodes_keep_the_same() -> None:
    two_faced = (said(7, body=b"to one"), said(7, body=b"to the other"))
    one, two = Table(), Table()
    for bundle in two_faced:
        merge(one, bundle)
    for bundle in reversed(two_faced):
        merge(two, bundle)
    assert shown(one) == shown(two)


def test_two_contents_under_one_sequence_are_noticed() -> None:
    table = Table()
    merge(table, said(7))
    other = said(7, "another key")
    assert table.is_equivocation(other, id_of(encode_bundle(other)))
    assert not table.is_equivocation(said(7), id_of(encode_bundle(said(7))))


def test_a_forgotten_author_leaves_nothing() -> None:
    table = Table()
    merge(table, said(1))
    table.forget(ADA)
    assert not table.authors
    assert not table.bundles
    assert not shown(table)


def test_what_was_made_later_than_can_be_goes_and_keeps_no_other_words_out() -> None:
    table, late = Table(), NOW + 3_600_000
    for number in range(limits.GOSSIP_AUTHOR_ITEMS_MAX + 1):
        merge(table, said(late + number, f"k{number}", ttl_s=7200, made_ms=late))
    assert table.authors[ADA].floor == late  # one too many: the oldest has gone
    merge(table, said(late + 5000, "dated anew"))
    table.forget_made_after(NOW + 600_000, spared=BOB)
    assert [heard.key for heard in shown(table)] == ["dated anew"]
    assert merge(table, said(NOW, "k"))


def test_an_author_that_is_spared_keeps_what_it_made_later_than_can_be() -> None:
    table = Table()
    merge(table, said(NOW, made_ms=NOW + 3_600_000))
    table.forget_made_after(NOW, spared=ADA)
    assert shown(table)
