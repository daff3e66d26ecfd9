"""Which network this node belongs to, and the chain that proves it: decided before anything connects, because the
handshake binds the network's id.

no file, no invite           a new network, of which this node is the founder
no file, an invite           the invite's network, *pending* until the inviter has accepted
pending                      as if there were no file: the join failed
a file, no invite            that network
a file, an invite to it      that network; the join is a formality
a file, another's invite     refused: one home belongs to one network
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesh.admission import revocations
from mesh.admission.certificates import found
from mesh.admission.invites import INVITES_FILE
from mesh.admission.signatures import Signer
from mesh.directory.address_book import BOOK_FILE
from protocols.certificates import Chain
from protocols.errors import LocalFault, UserError
from protocols.ids import NetworkId, shortened
from protocols.membership import parse_invite
from protocols.seams import Disk, Randomness

FILE: Final = "network.json"


class Belonging(msgspec.Struct, frozen=True):
    """`is_joined` is false between the choice of a network and its acceptance of this node, which gives the `chain`."""

    network: NetworkId
    is_joined: bool
    chain: Chain = ()


def read_belonging(disk: Disk) -> Belonging | None:
    """None on a fresh home. Raises `LocalFault` if the file is damaged, `UserError` if it is of the first release."""
    data = disk.read(FILE)
    if data is None:
        return None
    try:
        belonging = msgspec.json.decode(data, type=Belonging)
    except msgspec.DecodeError as error:
        raise LocalFault(
            f"{FILE} is damaged ({error}); restore it or remove it to leave the network"
        ) from error
    if belonging.is_joined and not belonging.chain:
        raise UserError(
            f"This home is of a release whose networks had no certificates: remove {FILE} from its state folder, "
            "then start a network anew or join one with an invite."
        )
    return belonging


def write_belonging(disk: Disk, belonging: Belonging) -> None:
    disk.write(FILE, msgspec.json.encode(belonging))


def decide_network(
    disk: Disk, identity: Signer, randomness: Randomness, now_s: float, invite_text: str | None
) -> NetworkId:
    """The network to run in, remembered on disk. Raises `UserError` for what is no invite, or one to another network."""
    wanted = parse_invite(invite_text).network if invite_text is not None else None
    present = read_belonging(disk)
    if present is not None and present.is_joined:
        _check(present, identity, wanted)
        return present.network
    if wanted is None:
        chain = found(identity, randomness, now_s)
        decided = Belonging(chain[0].network, is_joined=True, chain=chain)
    else:
        decided = Belonging(wanted, is_joined=False)
    if present is None or decided.network != present.network:
        # What remains is of another network, whose join ended half-way.
        for remains in (BOOK_FILE, INVITES_FILE, revocations.FILE):
            disk.delete(remains)
    write_belonging(disk, decided)
    return decided.network


def _check(present: Belonging, identity: Signer, wanted: NetworkId | None) -> None:
    if wanted not in (None, present.network):
        raise UserError(
            f"This node belongs to network {shortened(present.network)}, the invite to another: "
            "start a second node with a home of its own (WEFT_HOME)."
        )
    if wanted is None and present.chain[0].peer != identity.peer:
        raise UserError(
            f"The certificate in {FILE} is of {shortened(present.chain[0].peer)}, and the identity of this home is "
            "another: restore its identity.key, or join again with a new invite ('weft up --join INVITE')."
        )
