"""Large files: the one place outside `node` where the ban on `open` and `os` does not hold.

`protocols.seams.Disk` reads and writes small files whole. Weights are read in ranges and written in pieces, and the worker
opens them by path, so they lie in the real file system also in tests. Everything here blocks: callers on the event loop
hand it to an `Offload`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from protocols.errors import LocalFault

ResultT = TypeVar("ResultT")
_PIECE_BYTES: Final = 1 << 20


class Offload(Protocol):
    """Runs blocking work beside the event loop: `trio.to_thread.run_sync` in a node, `inline` on a virtual clock."""

    async def __call__(self, work: Callable[[], ResultT], /) -> ResultT: ...


async def inline(work: Callable[[], ResultT], /) -> ResultT:
    """An `Offload` for tests: a thread would let a virtual clock run ahead of it."""
    return work()


@dataclass(frozen=True, slots=True)
class FileState:
    """Equal states of one path mean equal contents, as far as the file system tells."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of a file from `start` on."""

    path: str
    start: int
    size_bytes: int

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; raises `LocalFault` if the file has become shorter."""
        wanted = max(0, min(count, self.size_bytes - offset))
        try:
            with Path(self.path).open("rb", buffering=0) as file:
                file.seek(self.start + offset)
                data = file.read(wanted)
        except OSError as error:
            raise LocalFault(f"{self.path} cannot be read: {error.strerror}") from error
        if len(data) < wanted:
            raise LocalFault(f"{self.path} has become shorter than it was")
        return data


class OpenFile:
    """Remains the file that it was, whatever gets its name. Not for several threads at once."""

    def __init__(self, path: str) -> None:
        """Raises `LocalFault`."""
        self._path = path
        try:
            self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - until it is closed
            self.size_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise LocalFault(f"{path} cannot be read: {error.strerror}") from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, of bytes. Raises `LocalFault` if the file ends before it is full."""
        try:
            self._file.seek(offset)
            while buffer:
                count = self._file.readinto(buffer)
                if not count:
                    raise LocalFault(f"{self._path} cannot be read: it has become shorter than it was")
                buffer = buffer[count:]
        except OSError as error:
            raise LocalFault(f"{self._path} cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def file_state(path: str) -> FileState | None:
    """None if there is no such file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return FileState(status.st_size, status.st_mtime_ns) if Path(path).is_file() else None


def free_disk_bytes(path: str) -> int | None:
    """What may still be written below `path`, which must exist; None where the system does not tell."""
    try:
        state = os.statvfs(path)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize


def read_file(path: str, bytes_max: int) -> bytes | None:
    """All of a small file; None if there is no such file. Raises `LocalFault` if it is larger or cannot be read."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalFault(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > bytes_max:
        raise LocalFault(f"{path} is larger than the {bytes_max} bytes allowed")
    return data


def list_folder(path: str) -> tuple[str, ...] | None:
    """The names in a folder, sorted; None if there is no such folder. Raises `LocalFault`."""
    try:
        return tuple(sorted(entry.name for entry in Path(path).iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LocalFault(f"{path} cannot be read: {error.strerror}") from error


def make_folder(path: str) -> None:
    """Raises `LocalFault`."""
    try:
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalFault(f"{path} cannot be made: {error.strerror}") from error


def remove_file(path: str) -> None:
    """Idempotent. Raises `LocalFault`."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise LocalFault(f"{path} cannot be removed: {error.strerror}") from error


class PartialFile:
    """A file that gets its name only when it is whole.

    One that is `resumable` goes on where an earlier attempt was left; of another, nothing stays unless it is committed.
    """

    def __init__(self, temporary: str, final: str, *, resumable: bool = False) -> None:
        self._temporary = Path(temporary)
        self._final = Path(final)
        self._is_resumable = resumable
        try:
            self._file = self._temporary.open("a+b" if resumable else "x+b", buffering=0)
        except OSError as error:
            raise LocalFault(f"{temporary} cannot be made: {error.strerror}") from error

    def written(self) -> Iterator[bytes]:
        """What an earlier attempt left, in pieces. Raises `LocalFault`."""
        try:
            self._file.seek(0)
            while data := self._file.read(_PIECE_BYTES):
                yield data
        except OSError as error:
            raise LocalFault(f"{self._temporary} cannot be read: {error.strerror}") from error

    def restart(self) -> None:
        """Throw away what is in it. Raises `LocalFault`."""
        try:
            self._file.truncate(0)
        except OSError as error:
            raise LocalFault(f"{self._temporary} cannot be written: {error.strerror}") from error

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises `LocalFault`, as when the disk is full."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise LocalFault(f"{self._temporary} cannot be written: {error.strerror}") from error

    def commit(self) -> None:
        """The file is on stable storage under its name. Raises `LocalFault`."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._final)
            folder = os.open(self._final.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise LocalFault(f"{self._final} cannot be written: {error.strerror}") from error

    def discard(self) -> None:
        """Idempotent; after `commit` it changes nothing. Never raises."""
        self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def leave(self) -> None:
        """Close it; what is in it stays for the next attempt if it is resumable. Idempotent, never raises."""
        if self._is_resumable:
            self._file.close()
        else:
            self.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
