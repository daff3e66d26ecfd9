"""The table of contacts: of every member the newest, by its owner's sequence, bounded, kept on disk.

A contact is only how to reach a peer. That it *is* this peer shows in the handshake, so a wrong one costs a dial.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from protocols import limits
from protocols.errors import LocalFault
from protocols.ids import PeerId
from protocols.membership import Contact

BOOK_FILE: Final = "members.msgpack"

_decoder: Final = msgspec.msgpack.Decoder(tuple[Contact, ...])


class AddressBook:
    """Contacts by peer, in the order in which they became members."""

    def __init__(self, contacts: tuple[Contact, ...] = ()) -> None:
        self._contacts: dict[PeerId, Contact] = {}
        for contact in contacts:
            self.merge(contact)

    @classmethod
    def decode(cls, data: bytes | None) -> AddressBook:
        """An empty one if there is no file; raises `LocalFault` for a damaged one."""
        try:
            return cls(_decoder.decode(data) if data is not None else ())
        except msgspec.DecodeError as error:
            raise LocalFault(f"the address book is damaged ({error}); remove it, and join again") from error

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(tuple(self))

    def merge(self, contact: Contact) -> bool:
        """Whether it was news: a new peer, if there is room, or a higher sequence of a known one."""
        known = self._contacts.get(contact.peer)
        if known is not None and known.sequence >= contact.sequence:
            return False
        if known is None and self.is_full:
            return False
        self._contacts[contact.peer] = contact
        return True

    def get(self, peer: PeerId) -> Contact | None:
        return self._contacts.get(peer)

    @property
    def is_full(self) -> bool:
        return len(self._contacts) >= limits.MEMBERS_MAX

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._contacts

    def __iter__(self) -> Iterator[Contact]:
        return iter(tuple(self._contacts.values()))

    def __len__(self) -> int:
        return len(self._contacts)
