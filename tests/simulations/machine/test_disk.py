"""The disk in memory."""

from __future__ import annotations

import pytest

from protocols.errors import LocalFault
from simulations.machine.disk import MemoryDisk


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
