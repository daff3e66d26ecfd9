"""Files are written whole or not at all, and for their owner alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.disk import FolderDisk, SystemRandomness
from protocols.errors import LocalFault
from protocols.seams import Disk
from simulations.machine.disk import MemoryDisk


@pytest.fixture(params=["folder", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return FolderDisk(tmp_path) if request.param == "folder" else MemoryDisk()


def test_what_was_written_is_read(disk: Disk) -> None:
    assert disk.read("a/b") is None
    disk.write("a/b", b"one")
    disk.write("a/b", b"two")
    disk.append("a/c", b"1")
    disk.append("a/c", b"2")
    assert (disk.read("a/b"), disk.read("a/c")) == (b"two", b"12")
    assert list(disk.list("a")) == ["b", "c"]
    disk.delete("a/b")
    disk.delete("a/b")
    assert list(disk.list("a")) == ["c"]
    assert list(disk.list("elsewhere")) == []


def test_files_belong_to_their_owner_alone(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    disk.write("key", b"secret")
    disk.append("log", b"line")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("key", "log")} == {0o600}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path)
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(LocalFault, match="taken"):
        disk.write("taken", b"a folder is in the way")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_random_bytes_differ() -> None:
    assert SystemRandomness().token_bytes(16) != SystemRandomness().token_bytes(16)
