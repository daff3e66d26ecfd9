"""The table of members: of each the newest contact and record, when it was last seen, and where it answered last.

A contact is only how to reach a peer. That it *is* this peer shows in the handshake, so a wrong one costs a dial. A record that
has expired is still good for that: whoever was away for a week finds the others where they were.

The rule of the file: bounded by `MEMBERS_MAX`, and news is what its owner numbered higher.
"""

from __future__ import annotations

from collections.abc import Iterator, KeysView
from typing import Annotated, Final

import msgspec

from mesh.directory.records import contact_of
from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import PeerId
from protocols.membership import Contact
from protocols.records import NodeRecord, SignedRecord
from protocols.streams import Plane

BOOK_FILE: Final = "members.msgpack"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """`record` is the newest that its owner signed, if any; `seen_s` wall-clock time; the rest where it answered last."""

    contact: Contact
    record: SignedRecord | None = None
    seen_s: int = 0
    good_control: Annotated[str, msgspec.Meta(max_length=256)] = ""
    good_data: Annotated[str, msgspec.Meta(max_length=256)] = ""

    def last_sign_s(self, now_s: float) -> float:
        """When it was seen or made its contact, whichever is later; a sequence ahead of the clock tells no time."""
        made_s = self.contact.sequence / 1e3
        return max(self.seen_s, made_s if made_s <= now_s + limits.CLOCK_SKEW_S else 0.0)


class _BookFile(msgspec.Struct, frozen=True, array_like=True, tag="book-2"):
    entries: tuple[Entry, ...]


_decoder: Final = msgspec.msgpack.Decoder(_BookFile)
_decoder_1: Final = msgspec.msgpack.Decoder(tuple[Contact, ...])


class AddressBook:
    """Entries by peer, in the order in which they became members."""

    def __init__(self, contacts: tuple[Contact, ...] = ()) -> None:
        self._entries: dict[PeerId, Entry] = {}
        for contact in contacts:
            self.merge(contact)

    @classmethod
    def decode(cls, data: bytes | None) -> AddressBook:
        """An empty one if there is no file; raises `LocalFault` for a damaged one."""
        book = cls()
        if data is not None:
            for entry in _decode_entries(data)[: limits.MEMBERS_MAX]:
                book._entries[entry.contact.peer] = entry
        return book

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(_BookFile(tuple(self._entries.values())))

    # What is learnt ------------------------------------------------------------------------------------------------

    def merge(self, contact: Contact) -> bool:
        """Whether it was news: a new peer, if there is room, or a higher sequence of a known one."""
        known = self._entries.get(contact.peer)
        if known is not None and known.contact.sequence >= contact.sequence:
            return False
        return self._put(contact, known, known.record if known else None)

    def merge_record(self, record: NodeRecord, signed: SignedRecord) -> bool:
        """As `merge`, for a record that has been judged true; it replaces a contact of the same sequence."""
        known = self._entries.get(record.peer)
        if known is not None:
            newest = known.contact.sequence
            if newest > record.sequence or (newest == record.sequence and known.record is not None):
                return False
        return self._put(contact_of(record), known, signed)

    def _put(self, contact: Contact, known: Entry | None, signed: SignedRecord | None) -> bool:
        if known is not None:
            entry = msgspec.structs.replace(known, contact=contact, record=signed)
        elif self.is_full:
            return False
        else:
            entry = Entry(contact, signed)
        self._entries[contact.peer] = entry
        return True

    def seen(self, peer: PeerId, now_s: float, plane: Plane | None = None, address: str = "") -> None:
        """A member is there; with `plane` and `address`: it answered a dial there."""
        entry = self._entries.get(peer)
        if entry is None:
            return
        control, data = entry.good_control, entry.good_data
        if address and plane is Plane.CONTROL:
            control = address
        elif address and plane is Plane.DATA:
            data = address
        self._entries[peer] = msgspec.structs.replace(
            entry, seen_s=int(now_s), good_control=control, good_data=data
        )

    def forget(self, now_s: float) -> tuple[PeerId, ...]:
        """Drop those of whom there was no sign for `BOOK_KEPT_S`, and say whom."""
        gone = tuple(
            peer
            for peer, entry in self._entries.items()
            if now_s - entry.last_sign_s(now_s) > limits.BOOK_KEPT_S
        )
        for peer in gone:
            del self._entries[peer]
        return gone

    def remove(self, peer: PeerId) -> None:
        """Idempotent."""
        self._entries.pop(peer, None)

    # What is known ------------------------------------------------------------------------------------------------

    def get(self, peer: PeerId) -> Contact | None:
        """As its owner made it."""
        entry = self._entries.get(peer)
        return None if entry is None else entry.contact

    def to_dial(self, peer: PeerId) -> Contact | None:
        """Its contact with the addresses first where it answered last, if they are still its own."""
        entry = self._entries.get(peer)
        if entry is None:
            return None
        contact = entry.contact
        return msgspec.structs.replace(
            contact,
            control=_with_first(entry.good_control, contact.control),
            data=_with_first(entry.good_data, contact.data),
        )

    def record(self, peer: PeerId) -> SignedRecord | None:
        """The newest that the peer signed, maybe older than its contact and maybe expired."""
        entry = self._entries.get(peer)
        return None if entry is None else entry.record

    def sequence(self, peer: PeerId) -> int:
        """Of the newest contact or record; 0 if there is none."""
        entry = self._entries.get(peer)
        return 0 if entry is None else entry.contact.sequence

    def seen_s(self, peer: PeerId) -> float:
        """Wall-clock time; 0 if it never was seen."""
        entry = self._entries.get(peer)
        return 0.0 if entry is None else float(entry.seen_s)

    @property
    def is_full(self) -> bool:
        return len(self._entries) >= limits.MEMBERS_MAX

    @property
    def peers(self) -> KeysView[PeerId]:
        return self._entries.keys()

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def __iter__(self) -> Iterator[Contact]:
        return iter([entry.contact for entry in self._entries.values()])

    def __len__(self) -> int:
        return len(self._entries)


def _with_first(address: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    if address not in addresses:
        return addresses
    return (address, *(each for each in addresses if each != address))


def _decode_entries(data: bytes) -> tuple[Entry, ...]:
    try:
        return _decoder.decode(data).entries
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        try:  # the first form, which weft no longer writes: contacts alone
            return tuple(map(Entry, _decoder_1.decode(data)))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise LocalFault(f"the address book is damaged ({error}); remove it, and join again") from error
