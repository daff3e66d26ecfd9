"""The address book on disks that are full, damaged or slow to come back."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.directory.address_book import BOOK_FILE, AddressBook
from mesh.directory.book_file import ASIDE_FILE, BookFile
from protocols import limits
from protocols.errors import LocalFault
from simulations.machine.clock import VirtualClock
from simulations.machine.disk import MemoryDisk
from tests.mesh.members.people import ONE, TWO, contact


class CountingDisk(MemoryDisk):
    def __init__(self) -> None:
        super().__init__()
        self.attempts_s: list[float] = []

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.attempts_s.append(trio.current_time())
        super().write(path, data, mode)


def now_ms() -> int:
    return int(VirtualClock().wall() * 1e3)


async def test_what_is_written_soon_is_written_once_for_many_changes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = CountingDisk()
    file = BookFile(disk, VirtualClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(file.run)
        file.book.merge(contact(ONE, now_ms()))
        for _ in range(100):
            file.write_soon()
        await trio.sleep(10 * limits.BOOK_WRITE_S_MIN)
        assert len(disk.attempts_s) == 1
        nursery.cancel_scope.cancel()
    assert ONE in BookFile(disk, VirtualClock()).book


async def test_a_full_disk_is_tried_again_ever_more_rarely_and_nothing_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = CountingDisk()
    file = BookFile(disk, VirtualClock())
    disk.is_full = True
    async with trio.open_nursery() as nursery:
        await nursery.start(file.run)
        file.book.merge(contact(ONE, now_ms()))
        assert not file.write()
        await trio.sleep(3600.0)
        assert 12 < len(disk.attempts_s) < 25, "5 s apart at first, 300 s in the end"
        assert file.failures == len(disk.attempts_s)
        disk.is_full = False
        await trio.sleep(limits.BOOK_WRITE_S_MAX + 1)
        assert ONE in BookFile(disk, VirtualClock()).book
        tries = len(disk.attempts_s)
        await trio.sleep(3600.0)
        assert len(disk.attempts_s) == tries
        nursery.cancel_scope.cancel()


async def test_what_was_still_to_be_written_is_written_at_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = MemoryDisk()
    file = BookFile(disk, VirtualClock())
    async with trio.open_nursery() as nursery:
        await nursery.start(file.run)
        file.book.merge(contact(ONE, now_ms()))
        file.write_soon()
        nursery.cancel_scope.cancel()
    assert ONE in BookFile(disk, VirtualClock()).book


async def test_a_damaged_book_is_set_aside_and_the_node_begins_with_an_empty_one() -> None:
    disk = MemoryDisk()
    damaged = AddressBook((contact(ONE, now_ms()),)).encode()[:-3]
    disk.write(BOOK_FILE, damaged)
    file = BookFile(disk, VirtualClock())
    assert len(file.book) == 0
    assert disk.read(ASIDE_FILE) == damaged
    file.book.merge(contact(TWO, now_ms()))
    assert file.write()
    assert TWO in BookFile(disk, VirtualClock()).book


async def test_a_damaged_book_on_a_full_disk_does_not_end_the_node_either() -> None:
    disk = MemoryDisk()
    disk.write(BOOK_FILE, b"\xc1")
    disk.is_full = True
    assert len(BookFile(disk, VirtualClock()).book) == 0


async def test_a_file_that_can_not_be_read_at_all_is_the_operators_to_mend() -> None:
    class Unreadable(MemoryDisk):
        def read(self, path: str) -> bytes | None:
            raise LocalFault(f"{path} can't be read: permission denied")

    with pytest.raises(LocalFault, match="permission denied"):
        assert BookFile(Unreadable(), VirtualClock()).book


async def test_members_not_seen_for_a_quarter_are_forgotten_at_the_start() -> None:
    disk = MemoryDisk()
    recent = contact(ONE, now_ms())
    disk.write(BOOK_FILE, AddressBook((recent, contact(TWO, 1))).encode())
    assert tuple(BookFile(disk, VirtualClock()).book) == (recent,)
