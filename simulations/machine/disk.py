"""A disk in memory. It outlives the daemon that uses it, so a restart finds what a crash left.

What it promises is what `node.disk.FolderDisk` does: `write` and `append` have been synced when they return. A crash comes
between two operations, never within one, so these survive it. Two faults go beyond that promise: `torn` cuts the last append
short, as if the power had failed within it, and `rolled_back` gives the files as they were, as a restored snapshot does.
Where `syncs` is false, nothing is promised: a crash that tears loses the last operations, as many as chance has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, Protocol

from protocols.errors import LocalFault
from simulations.chance import chance

ROLLBACK_S: Final = 10.0
SUPERSEDED_MAX: Final = 4096  # versions kept to go back to; more in `ROLLBACK_S` shorten the way back
UNSYNCED_MAX: Final = 64  # a kernel writes back what waits too long

Remains = Literal["kept", "lost", "torn", "rolled_back"]


class Dice(Protocol):
    """What of a `random.Random` is drawn here."""

    def randint(self, a: int, b: int, /) -> int: ...
    def randrange(self, start: int, /) -> int: ...
    def choice(self, seq: Sequence[str], /) -> str: ...


@dataclass(frozen=True, slots=True)
class _Superseded:
    """What a file was until then; None: it was not there."""

    until_s: float
    path: str
    data: bytes | None


class MemoryDisk:
    """Implements `protocols.seams.Disk`. `is_full` makes every write fail, as a full disk does.

    `on_write` is called before every write, for a disk so slow that somebody has to wait; `monotonic` gives the seconds by
    which `rolled_back` counts, and without it time stands still.
    """

    def __init__(self, monotonic: Callable[[], float] = lambda: 0.0, random: Dice | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.is_full = False
        self.syncs = True
        self.write_s = 0.0
        self.on_write: Callable[[], None] | None = None
        self.writes = 0
        self.bytes_written = 0
        self.was_damaged = False
        self._monotonic = monotonic
        self._random = random or chance(0, "disk")
        self._superseded: deque[_Superseded] = deque(maxlen=SUPERSEDED_MAX)
        self._unsynced: deque[_Superseded] = deque(maxlen=UNSYNCED_MAX)
        self._last_append: tuple[str, int] | None = None  # and the length before it

    def read(self, path: str) -> bytes | None:
        return self.files.get(_checked(path))

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        del mode  # nobody else can read this memory
        self._begin_write(len(data))
        self._replace(_checked(path), bytes(data))
        self._last_append = None

    def append(self, path: str, data: bytes) -> None:
        self._begin_write(len(data))
        before = self.files.get(_checked(path), b"")
        self._replace(_checked(path), before + data)
        self._last_append = (_checked(path), len(before))

    def delete(self, path: str) -> None:
        self._replace(_checked(path), None)

    def list(self, path: str) -> Sequence[str]:
        """The names in a folder, sorted."""
        folder = PurePosixPath(path)
        below = (PurePosixPath(name) for name in self.files)
        return sorted({file.relative_to(folder).parts[0] for file in below if folder in file.parents})

    # What befalls it -------------------------------------------------------------------------------------------------

    def detach(self, how: Remains = "kept") -> MemoryDisk:
        """What a crash leaves for the next process; what the dying one still writes changes nothing there."""
        left = MemoryDisk(self._monotonic, self._random)
        left.is_full, left.syncs, left.write_s, left.on_write = (
            self.is_full, self.syncs, self.write_s, self.on_write,
        )  # fmt: skip
        left.writes, left.bytes_written = self.writes, self.bytes_written
        left.was_damaged = self.was_damaged or how in {"torn", "rolled_back"}
        self.on_write = None
        if how == "lost":
            left.was_damaged = False
            return left
        left.files = dict(self.files)
        left._superseded.extend(self._superseded)
        if how == "torn":
            self._tear(left.files)
        elif how == "rolled_back":
            _undo(
                left.files, [old for old in self._superseded if old.until_s > self._monotonic() - ROLLBACK_S]
            )
        return left

    def rot(self) -> str | None:
        """One bit of one file flips; gives its path."""
        paths = sorted(path for path, data in self.files.items() if data)
        if not paths:
            return None
        path = self._random.choice(paths)
        data = bytearray(self.files[path])
        data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        self.files[path] = bytes(data)
        self.was_damaged = True
        return path

    def _tear(self, files: dict[str, bytes]) -> None:
        lost = list(self._unsynced)[self._random.randint(0, len(self._unsynced)) :]
        _undo(files, lost)
        if self._last_append is not None and not lost:
            path, before = self._last_append
            files[path] = files[path][: self._random.randint(before, len(files[path]) - 1)]

    # Inside ----------------------------------------------------------------------------------------------------------

    def _begin_write(self, size_bytes: int) -> None:
        if self.on_write is not None:
            self.on_write()
        if self.is_full:
            raise LocalFault("no space is left on the disk")
        self.writes += 1
        self.bytes_written += size_bytes

    def _replace(self, path: str, data: bytes | None) -> None:
        now = self._monotonic()
        old = _Superseded(now, path, self.files.get(path))
        while self._superseded and self._superseded[0].until_s < now - ROLLBACK_S:
            self._superseded.popleft()
        self._superseded.append(old)
        if not self.syncs:
            self._unsynced.append(old)
        if data is None:
            self.files.pop(path, None)
        else:
            self.files[path] = data


def _undo(files: dict[str, bytes], superseded: Sequence[_Superseded]) -> None:
    for old in reversed(superseded):
        if old.data is None:
            files.pop(old.path, None)
        else:
            files[old.path] = old.data


def _checked(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise LocalFault(f"a path of the disk is relative to its root, not {path!r}")
    return str(pure)
