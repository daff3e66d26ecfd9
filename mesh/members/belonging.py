"""Which network this node belongs to: decided before anything connects, because the handshake binds it.

no file, no invite           a new network, of which this node is the first member
no file, an invite           the invite's network, *pending* until the inviter has accepted
pending                      as if there were no file: the join failed
a file, no invite            that network
a file, an invite to it      that network; the join is a formality
a file, another's invite     refused: one home belongs to one network
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesh.members.address_book import BOOK_FILE
from mesh.members.invites import INVITES_FILE
from protocols.errors import LocalFault, UserError
from protocols.ids import NetworkId, shortened
from protocols.membership import parse_invite
from protocols.seams import Disk, Randomness

FILE: Final = "network.json"


class Belonging(msgspec.Struct, frozen=True):
    """`is_joined` is false between the choice of a network and its acceptance of this node."""

    network: NetworkId
    is_joined: bool


def read_belonging(disk: Disk) -> Belonging | None:
    """None on a fresh home; raises `LocalFault` if the file is damaged."""
    data = disk.read(FILE)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Belonging)
    except msgspec.DecodeError as error:
        raise LocalFault(
            f"{FILE} is damaged ({error}); restore it or remove it to leave the network"
        ) from error


def write_belonging(disk: Disk, belonging: Belonging) -> None:
    disk.write(FILE, msgspec.json.encode(belonging))


def decide_network(disk: Disk, randomness: Randomness, invite_text: str | None) -> NetworkId:
    """The network to run in, remembered on disk. Raises `UserError` for what is no invite, or one to another network."""
    wanted = parse_invite(invite_text).network if invite_text is not None else None
    present = read_belonging(disk)
    if present is not None and present.is_joined:
        if wanted not in (None, present.network):
            raise UserError(
                f"This node belongs to network {shortened(present.network)}, the invite to another: "
                "start a second node with a home of its own (WEFT_HOME)."
            )
        return present.network
    network = wanted or NetworkId(randomness.token_bytes(16).hex())
    if present is None or network != present.network:
        for remains in (BOOK_FILE, INVITES_FILE):  # of another network, whose join ended half-way
            disk.delete(remains)
    write_belonging(disk, Belonging(network, is_joined=wanted is None))
    return network
