"""Which network a home belongs to, for every state of its disk."""

from __future__ import annotations

import pytest

from mesh.members.belonging import FILE, Belonging, decide_network, read_belonging, write_belonging
from protocols.errors import LocalFault, UserError
from protocols.ids import NetworkId
from protocols.membership import Invite
from simulations.clock import SeededRandomness
from simulations.disk import MemoryDisk
from tests.mesh.members.people import ONE, contact

HERE, THERE = NetworkId("a" * 32), NetworkId("b" * 32)
NEW = NetworkId(SeededRandomness(1).token_bytes(16).hex())


def invite_to(network: NetworkId) -> str:
    return Invite(network, contact(ONE), bytes(16), 1, 2_000_000_000).to_text()


@pytest.mark.parametrize(
    ("present", "invited_to", "decided", "is_joined"),
    [
        (None, None, NEW, True),
        (None, THERE, THERE, False),
        (Belonging(HERE, True), None, HERE, True),
        (Belonging(HERE, True), HERE, HERE, True),
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
    assert decide_network(disk, SeededRandomness(1), text) == decided
    assert read_belonging(disk) == Belonging(decided, is_joined)


def test_a_member_of_one_network_is_not_taken_over_by_another() -> None:
    disk = MemoryDisk()
    write_belonging(disk, Belonging(HERE, True))
    with pytest.raises(UserError, match="WEFT_HOME"):
        decide_network(disk, SeededRandomness(1), invite_to(THERE))
    assert read_belonging(disk) == Belonging(HERE, True)


def test_what_is_no_invite_changes_nothing() -> None:
    disk = MemoryDisk()
    with pytest.raises(UserError, match="weft invite"):
        decide_network(disk, SeededRandomness(1), "weft1.garbage")
    assert not disk.files


def test_another_network_does_not_inherit_members_or_invites() -> None:
    disk = MemoryDisk()
    write_belonging(disk, Belonging(HERE, False))
    disk.write("members.msgpack", b"of the other network")
    disk.write("invites.msgpack", b"of the other network")
    decide_network(disk, SeededRandomness(1), None)
    assert set(disk.files) == {FILE}


def test_a_damaged_file_is_said_so() -> None:
    disk = MemoryDisk()
    disk.write(FILE, b"{")
    with pytest.raises(LocalFault, match=r"network\.json is damaged"):
        decide_network(disk, SeededRandomness(1), None)
