"""This node's own contact: made anew in every run, because ports may have changed, and always newer than the one before."""

from __future__ import annotations

from typing import Final

import msgspec

from protocols.membership import Contact
from protocols.seams import Clock, Disk, Network
from protocols.streams import Plane

FILE: Final = "contact.msgpack"
NAME_LENGTH_MAX: Final = 64


def renew_contact(network: Network, clock: Clock, disk: Disk, name: str) -> Contact:
    """Of a network that runs. The sequence is the wall clock in ms, or one more than last time if the clock went back."""
    contact = Contact(
        peer=network.peer,
        static=network.static,
        control=network.addresses(Plane.CONTROL),
        data=network.addresses(Plane.DATA),
        sequence=max(int(clock.wall() * 1e3), _last_sequence(disk) + 1),
        name=name[:NAME_LENGTH_MAX],
    )
    disk.write(FILE, msgspec.msgpack.encode(contact))
    return contact


def _last_sequence(disk: Disk) -> int:
    try:
        return msgspec.msgpack.decode(disk.read(FILE) or b"", type=Contact).sequence
    except msgspec.DecodeError:  # no file, or none of ours: the clock alone has to do
        return 0
