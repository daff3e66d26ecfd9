"""The table of members: the newest of each, bounded, in two forms on disk."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.directory.address_book import AddressBook
from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import NetworkId, PeerId
from protocols.membership import Contact
from protocols.records import NodeRecord, SignedRecord, encode_record
from protocols.streams import Plane
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


# Records, and where members answered ---------------------------------------------------------------------------------

NOW_S = 1_800_000_000.0
DAY_S = 24 * 3600.0


def signed_contact(sequence: int, port: int = 4001) -> tuple[NodeRecord, SignedRecord]:
    says = contact(ONE, sequence, port)
    record = NodeRecord(
        ONE, NetworkId("ab" * 16), sequence, 1, 2, says.control, says.data, (says.static,), says.name
    )
    return record, SignedRecord(encode_record(record), b"\1" * 64)


def test_a_record_brings_its_contact_and_replaces_an_unsigned_one_of_its_sequence() -> None:
    book = AddressBook((contact(ONE, 5),))
    assert not book.merge_record(*signed_contact(4, port=9))
    assert book.record(ONE) is None
    assert book.merge_record(*signed_contact(5, port=9))
    assert not book.merge_record(*signed_contact(5, port=7)), "of two with one sequence the first stays"
    assert book.get(ONE) == contact(ONE, 5, port=9)
    assert book.record(ONE) == signed_contact(5, port=9)[1]
    assert (book.sequence(ONE), book.sequence(TWO)) == (5, 0)
    assert book.merge(contact(ONE, 6))
    assert book.record(ONE) == signed_contact(5, port=9)[1], "what was signed stays, to be handed on"


def test_everything_survives_a_restart() -> None:
    book = AddressBook((contact(TWO),))
    book.merge_record(*signed_contact(5))
    book.seen(ONE, NOW_S, Plane.DATA, contact(ONE).data[0])
    again = AddressBook.decode(book.encode())
    assert (tuple(again), again.record(ONE), again.seen_s(ONE)) == (tuple(book), book.record(ONE), NOW_S)
    assert again.encode() == book.encode()


def test_a_book_of_the_first_form_is_read() -> None:
    contacts = tuple(map(contact, (ONE, TWO, THREE)))
    first_form = msgspec.msgpack.encode(contacts)
    assert tuple(AddressBook.decode(first_form)) == contacts
    assert tuple(AddressBook.decode(msgspec.msgpack.encode(()))) == ()


def test_the_address_that_answered_last_is_dialled_first_as_long_as_it_is_the_peers_own() -> None:
    addresses = tuple(f"/ip4/10.0.0.{number}/tcp/1" for number in (1, 2, 3))
    book = AddressBook((Contact(ONE, b"\1" * 32, addresses, addresses, 1),))
    book.seen(ONE, NOW_S, Plane.CONTROL, addresses[1])
    assert book.get(ONE) == Contact(ONE, b"\1" * 32, addresses, addresses, 1), "its own word is not reordered"
    first = book.to_dial(ONE)
    assert first is not None
    assert first.control == (addresses[1], addresses[0], addresses[2])
    assert first.data == addresses
    book.seen(ONE, NOW_S + 1)
    assert book.to_dial(ONE) == first, "being seen says nothing about addresses"
    book.merge(Contact(ONE, b"\1" * 32, (addresses[0],), (), 2))
    assert book.to_dial(ONE) == Contact(ONE, b"\1" * 32, (addresses[0],), (), 2)
    book.seen(TWO, NOW_S)
    assert (book.to_dial(TWO), book.seen_s(TWO)) == (None, 0.0)


def test_who_was_away_for_a_week_is_still_known_and_who_was_away_for_a_year_is_not() -> None:
    ms = int(NOW_S * 1e3)
    book = AddressBook((contact(ONE, ms), contact(TWO, ms), contact(THREE, 1), contact(FOUR, ms * 9)))
    book.seen(TWO, NOW_S + 30 * DAY_S)
    assert book.forget(NOW_S) == (THREE, FOUR), "no sign of life but a sequence that no clock can have given"
    assert book.forget(NOW_S + 7 * DAY_S) == ()
    assert book.forget(NOW_S + 366 * DAY_S) == ()
    assert book.forget(NOW_S + 367 * DAY_S) == (ONE,)
    assert book.forget(NOW_S + 397 * DAY_S) == (TWO,)


def test_the_removed_make_room() -> None:
    book = AddressBook((contact(ONE), contact(TWO)))
    book.remove(ONE)
    book.remove(ONE)
    assert tuple(book) == (contact(TWO),)
