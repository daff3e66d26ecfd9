"""The real disk and the real dice: the seams `Disk` and `Randomness` on this machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from protocols.errors import LocalFault


class FolderDisk:
    """Implements `protocols.seams.Disk` below one folder, readable by its owner alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalFault(f"{self._root / path} can't be read: {error.strerror}") from error

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        final = self._root / path
        try:
            final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # mkstemp makes it 0600, so that a key is never readable by others, not even for a moment.
            descriptor, temporary = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name}.")
        except OSError as error:
            raise LocalFault(f"{final} can't be written: {error.strerror}") from error
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
                os.fchmod(descriptor, mode)
            Path(temporary).replace(final)
            _sync_folder(final.parent)
        except OSError as error:
            with suppress(OSError):
                Path(temporary).unlink()
            raise LocalFault(f"{final} can't be written: {error.strerror}") from error

    def append(self, path: str, data: bytes) -> None:
        final = self._root / path
        try:
            final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(final, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise LocalFault(f"{final} can't be written: {error.strerror}") from error

    def delete(self, path: str) -> None:
        try:
            (self._root / path).unlink(missing_ok=True)
            _sync_folder((self._root / path).parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LocalFault(f"{self._root / path} can't be removed: {error.strerror}") from error

    def list(self, path: str) -> Sequence[str]:
        try:
            return sorted(entry.name for entry in (self._root / path).iterdir() if entry.is_file())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise LocalFault(f"{self._root / path} can't be read: {error.strerror}") from error


class SystemRandomness:
    """The operating system's generator."""

    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
