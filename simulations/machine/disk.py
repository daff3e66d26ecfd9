"""A disk in memory. It outlives the daemon that uses it, so a restart finds what a crash left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from protocols.errors import LocalFault


class MemoryDisk:
    """Implements `protocols.seams.Disk`. `is_full` makes every write fail, as a full disk does."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.is_full = False

    def read(self, path: str) -> bytes | None:
        return self.files.get(_checked(path))

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        del mode  # nobody else can read this memory
        self._check_space()
        self.files[_checked(path)] = bytes(data)

    def append(self, path: str, data: bytes) -> None:
        self._check_space()
        self.files[_checked(path)] = self.files.get(_checked(path), b"") + data

    def delete(self, path: str) -> None:
        self.files.pop(_checked(path), None)

    def list(self, path: str) -> Sequence[str]:
        """The names in a folder, sorted."""
        folder = PurePosixPath(path)
        below = (PurePosixPath(name) for name in self.files)
        return sorted({file.relative_to(folder).parts[0] for file in below if folder in file.parents})

    def detach(self) -> MemoryDisk:
        """What a crash leaves for the next process; what the dying one still writes changes nothing there."""
        left = MemoryDisk()
        left.files = dict(self.files)
        left.is_full = self.is_full
        return left

    def _check_space(self) -> None:
        if self.is_full:
            raise LocalFault("no space is left on the disk")


def _checked(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise LocalFault(f"a path of the disk is relative to its root, not {path!r}")
    return str(pure)
