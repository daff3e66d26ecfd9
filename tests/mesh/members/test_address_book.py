"""The table of contacts: the newest of each, bounded, on disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.members.address_book import AddressBook
from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import PeerId
from tests.mesh.members.people import FOUR, ONE, THREE, TWO, contact


@given(st.permutations([1, 2, 3, 4]))
def test_the_highest_sequence_stays_in_whatever_order_they_come(sequences: list[int]) -> None:
    book = AddressBook()
    for sequence in sequences:
        book.merge(contact(ONE, sequence, 4000 + sequence))
    assert book.get(ONE) == contact(ONE, 4, 4004)


def test_only_news_is_news() -> None:
    book = AddressBook()
    assert book.merge(contact(ONE, 5))
    assert not book.merge(contact(ONE, 5, port=9))
    assert not book.merge(contact(ONE, 4, port=9))
    assert book.merge(contact(ONE, 6, port=9))
    assert book.merge(contact(TWO, 1))
    assert (ONE in book, THREE in book, len(book)) == (True, False, 2)
    assert book.get(THREE) is None


def test_what_is_stored_comes_back() -> None:
    book = AddressBook(tuple(map(contact, (ONE, TWO, THREE, FOUR))))
    assert tuple(AddressBook.decode(book.encode())) == tuple(book)
    assert len(AddressBook.decode(None)) == 0
    for damaged in (b"", b"\xc1", book.encode()[:-3]):
        with pytest.raises(LocalFault, match="address book is damaged"):
            AddressBook.decode(damaged)


def test_a_full_book_takes_news_of_those_in_it_and_nobody_else() -> None:
    peers = [PeerId(f"12D3KooW{number:044}") for number in range(limits.MEMBERS_MAX + 1)]
    book = AddressBook(tuple(map(contact, peers[:-1])))
    assert book.is_full
    assert not book.merge(contact(peers[-1]))
    assert book.merge(contact(peers[0], 2))
    assert len(book) == limits.MEMBERS_MAX
