"""The disk in memory."""

from __future__ import annotations

from random import Random
from typing import Literal

import pytest

from protocols.errors import LocalFault
from simulations.machine.disk import ROLLBACK_S, SUPERSEDED_MAX, MemoryDisk


def test_what_is_written_is_read_appended_listed_and_deleted() -> None:
    disk = MemoryDisk()
    assert disk.read("a/b.bin") is None
    disk.write("a/b.bin", b"one")
    disk.append("a/b.bin", b" two")
    disk.append("a/c/d.bin", b"three")
    disk.write("e", b"")
    assert disk.read("a/b.bin") == b"one two"
    assert disk.list("a") == ["b.bin", "c"]
    assert disk.list("nowhere") == []
    disk.delete("a/b.bin")
    disk.delete("a/b.bin")
    assert disk.read("a/b.bin") is None


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_no_path_leaves_the_root(path: str) -> None:
    with pytest.raises(LocalFault):
        MemoryDisk().write(path, b"")


def test_a_full_disk_keeps_what_it_has() -> None:
    disk = MemoryDisk()
    disk.write("a", b"old")
    disk.is_full = True
    with pytest.raises(LocalFault, match="no space"):
        disk.write("a", b"new")
    with pytest.raises(LocalFault, match="no space"):
        disk.append("a", b"new")
    assert disk.read("a") == b"old"


# What a crash leaves -------------------------------------------------------------------------------------------------


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def written(*, syncs: bool = True, seed: int = 1) -> MemoryDisk:
    disk = MemoryDisk(random=Random(seed))
    disk.syncs = syncs
    for number in range(10):
        disk.write(f"file {number}", b"content")
    return disk


def test_a_kept_disk_is_the_same_and_the_dying_process_writes_to_another() -> None:
    disk = written()
    left = disk.detach()
    disk.write("file 0", b"too late")
    disk.delete("file 1")
    assert left.files == written().files
    assert not left.was_damaged


def test_a_lost_disk_is_empty_and_sound() -> None:
    disk = written()
    disk.is_full = True
    left = disk.detach("lost")
    assert left.files == {}
    assert left.is_full
    assert not left.was_damaged


@pytest.mark.parametrize("how", ["kept", "torn"])
def test_what_was_synced_survives_every_crash(how: Literal["kept", "torn"]) -> None:
    assert written().detach(how).files == written().files


def test_a_torn_disk_has_the_beginning_of_its_last_append() -> None:
    lengths = set()
    for seed in range(50):
        disk = MemoryDisk(random=Random(seed))
        disk.append("log", b"first ")
        disk.append("log", b"second")
        left = disk.detach("torn")
        assert b"first second".startswith(left.files["log"])
        assert left.was_damaged
        lengths.add(len(left.files["log"]))
    assert lengths == set(range(6, 12))


def test_an_append_before_the_last_write_is_whole() -> None:
    disk = MemoryDisk()
    disk.append("log", b"first ")
    disk.write("other", b"")
    assert disk.detach("torn").files["log"] == b"first "


def test_a_disk_that_does_not_sync_loses_its_last_writes_in_order() -> None:
    kept = {len(written(syncs=False, seed=seed).detach("torn").files) for seed in range(200)}
    assert kept == set(range(11))
    some = written(syncs=False, seed=3).detach("torn").files
    assert list(some) == [f"file {number}" for number in range(len(some))]
    assert written(syncs=False).detach("kept").files == written().files


def test_a_rolled_back_disk_is_as_it_was_ten_seconds_before() -> None:
    hand = Hand()
    disk = MemoryDisk(hand)
    disk.write("old", b"1")
    disk.write("gone", b"1")
    hand.now_s = 100.0
    disk.write("old", b"2")
    hand.now_s = 100.0 + ROLLBACK_S - 1
    disk.write("old", b"3")
    disk.write("old", b"4")
    disk.delete("gone")
    disk.write("new", b"1")
    assert disk.detach("rolled_back").files == {"old": b"1", "gone": b"1"}
    hand.now_s = 100.0 + ROLLBACK_S + 1
    left = disk.detach("rolled_back")
    assert left.files == {"old": b"2", "gone": b"1"}
    hand.now_s += ROLLBACK_S
    assert left.detach("rolled_back").files == left.files
    assert disk.detach("rolled_back").files == disk.files


def test_what_a_roll_back_needs_is_bounded() -> None:
    hand = Hand()
    disk = MemoryDisk(hand)
    for _ in range(2 * SUPERSEDED_MAX):
        disk.write("a", b"")
    assert len(disk._superseded) == SUPERSEDED_MAX
    hand.now_s = ROLLBACK_S + 1
    disk.write("a", b"")
    assert len(disk._superseded) == 1


# Other faults --------------------------------------------------------------------------------------------------------


def test_a_slow_disk_says_so_before_every_write_until_its_process_is_dead() -> None:
    disk, waited = MemoryDisk(), []
    disk.on_write = lambda: waited.append(dict(disk.files))
    disk.write("a", b"1")
    disk.append("a", b"2")
    assert waited == [{}, {"a": b"1"}]
    left = disk.detach()
    disk.write("a", b"3")
    assert len(waited) == 2
    left.write("a", b"4")
    assert len(waited) == 3


def test_a_bit_rots() -> None:
    disk = written()
    before = dict(disk.files)
    path = disk.rot()
    assert path is not None
    assert disk.was_damaged
    assert [name for name in before if disk.files[name] != before[name]] == [path]
    flipped = int.from_bytes(before[path], "big") ^ int.from_bytes(disk.files[path], "big")
    assert flipped.bit_count() == 1
    assert MemoryDisk().rot() is None


def test_what_is_written_is_counted_over_a_crash() -> None:
    disk = MemoryDisk()
    disk.write("a", b"12345")
    left = disk.detach()
    left.append("a", b"678")
    assert (left.writes, left.bytes_written) == (2, 8)
    left.is_full = True
    with pytest.raises(LocalFault):
        left.write("a", b"9")
    assert (left.writes, left.bytes_written) == (2, 8)
