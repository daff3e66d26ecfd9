"""Which network a home belongs to, for every state of its disk."""

from __future__ import annotations

import pytest

from mesh.admission.belonging import FILE, Belonging, decide_network, read_belonging, write_belonging
from mesh.admission.certificates import found
from mesh.admission.identity import identity_from_keys
from protocols.errors import LocalFault, UserError
from protocols.ids import NetworkId
from protocols.membership import Invite
from simulations.machine.clock import SeededRandomness
from simulations.machine.disk import MemoryDisk
from tests.mesh.members.people import ONE, contact

OWN, OTHER = (identity_from_keys(bytes([number]) * 32, bytes([99]) * 32) for number in (1, 2))
NOW_S = 1_800_000_000.0
OWN_CHAIN = found(OWN, SeededRandomness(2), NOW_S)
HERE, THERE = OWN_CHAIN[0].network, NetworkId("b" * 32)
NEW = found(OWN, SeededRandomness(1), NOW_S)[0].network


def invite_to(network: NetworkId) -> str:
    return Invite(network, contact(ONE), bytes(16), 1, 2_000_000_000).to_text()


@pytest.mark.parametrize(
    ("present", "invited_to", "decided", "is_joined"),
    [
        (None, None, NEW, True),
        (None, THERE, THERE, False),
        (Belonging(HERE, True, OWN_CHAIN), None, HERE, True),
        (Belonging(HERE, True, OWN_CHAIN), HERE, HERE, True),
        (Belonging(HERE, False), None, NEW, True),
        (Belonging(HERE, False), HERE, HERE, False),
        (Belonging(HERE, False), THERE, THERE, False),
    ],
)
def test_the_network_is_decided_by_home_and_invite(
    present: Belonging | None, invited_to: NetworkId | None, decided: NetworkId, is_joined: bool
) -> None:
    disk = MemoryDisk()
    if present:
        write_belonging(disk, present)
    text = invite_to(invited_to) if invited_to else None
    assert decide_network(disk, OWN, SeededRandomness(1), NOW_S, text) == decided
    stored = read_belonging(disk)
    assert stored is not None
    assert (stored.network, stored.is_joined, bool(stored.chain)) == (decided, is_joined, is_joined)


def test_a_member_of_one_network_is_not_taken_over_by_another() -> None:
    disk = MemoryDisk()
    write_belonging(disk, Belonging(HERE, True, OWN_CHAIN))
    with pytest.raises(UserError, match="WEFT_HOME"):
        decide_network(disk, OWN, SeededRandomness(1), NOW_S, invite_to(THERE))
    assert read_belonging(disk) == Belonging(HERE, True, OWN_CHAIN)


def test_what_is_no_invite_changes_nothing() -> None:
    disk = MemoryDisk()
    with pytest.raises(UserError, match="weft invite"):
        decide_network(disk, OWN, SeededRandomness(1), NOW_S, "weft1.garbage")
    assert not disk.files


def test_another_network_does_not_inherit_members_or_invites() -> None:
    disk = MemoryDisk()
    write_belonging(disk, Belonging(HERE, False))
    disk.write("members.msgpack", b"of the other network")
    disk.write("invites.msgpack", b"of the other network")
    disk.write("revocations.msgpack", b"of the other network")
    decide_network(disk, OWN, SeededRandomness(1), NOW_S, None)
    assert set(disk.files) == {FILE}


def test_a_damaged_file_is_said_so() -> None:
    disk = MemoryDisk()
    disk.write(FILE, b"{")
    with pytest.raises(LocalFault, match=r"network\.json is damaged"):
        decide_network(disk, OWN, SeededRandomness(1), NOW_S, None)


def test_a_founder_has_the_root_certificate_that_its_network_id_commits_to() -> None:
    disk = MemoryDisk()
    network = decide_network(disk, OWN, SeededRandomness(1), NOW_S, None)
    stored = read_belonging(disk)
    assert stored is not None
    (root,) = stored.chain
    assert root.is_root
    assert (root.peer, root.network) == (OWN.peer, network)


def test_a_home_of_the_release_before_certificates_says_what_to_do() -> None:
    disk = MemoryDisk()
    disk.write(FILE, b'{"network":"' + b"a" * 32 + b'","is_joined":true}')
    with pytest.raises(UserError, match=r"no certificates: remove network\.json"):
        decide_network(disk, OWN, SeededRandomness(1), NOW_S, None)


def test_a_home_with_another_identity_has_to_join_again() -> None:
    disk = MemoryDisk()
    write_belonging(disk, Belonging(HERE, True, OWN_CHAIN))
    with pytest.raises(UserError, match=r"restore its identity\.key, or join again"):
        decide_network(disk, OTHER, SeededRandomness(1), NOW_S, None)
    assert decide_network(disk, OTHER, SeededRandomness(1), NOW_S, invite_to(HERE)) == HERE
