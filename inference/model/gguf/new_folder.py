"""A folder of a model that gets its name only when it is whole and on stable storage.

It is written beside its place, in a folder whose name ends in `.importing`. A lock that the kernel frees with the process
keeps two imports apart; what a killed one left is removed by the next.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mesh.state.files import free_disk_bytes
from protocols.errors import UserError

_SPARE_BYTES: Final = 64 << 20  # for the small files, and for whoever else writes there
_OURS: Final = re.compile(
    r"model[a-z0-9.-]*\.safetensors(\.index\.json)?|(config|tokenizer|tokenizer_config)\.json"
)


@dataclass(frozen=True, slots=True)
class NewFolder:
    """`path` is where the files are written until it is done."""

    path: Path

    def write(self, name: str, data: bytes) -> None:
        self.write_pieces(name, [data])

    def write_pieces(self, name: str, pieces: Iterable[bytes]) -> None:
        """A file, on stable storage when this returns."""
        with (self.path / name).open("xb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def new_folder(target: Path, size_bytes: int) -> Iterator[NewFolder]:
    """The folder `target`, which is there after the block and not before; nothing is left of it if the block raises.

    Raises `UserError` if there is such a folder, no room for `size_bytes`, or no right to write.
    """
    try:
        with _locked(target) as path:
            try:
                _check_room(target, size_bytes)
                yield NewFolder(path)
                _sync(path)
                if _is_taken(target):
                    raise _taken(target)
                path.rename(target)
                _sync(target.parent)
            finally:
                _discard(path)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}): name another folder with --to"
        ) from error


@contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """The empty folder that will be `target`, ours alone."""
    if _is_taken(target):
        raise _taken(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}.importing")
    with suppress(FileExistsError):
        path.mkdir()
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another import writes {target}: wait for it, or name another with --to"
            ) from None
        if _is_taken(target):  # by an import that ended just now
            raise _taken(target)
        _empty(path)
        yield path
    finally:
        os.close(lock)


def _empty(path: Path) -> None:
    """Take away what a killed import left, and nothing else."""
    for entry in sorted(path.iterdir()):
        if not _OURS.fullmatch(entry.name) or entry.is_dir():
            raise UserError(
                f"{entry} was not left by an import: move it away, or name another folder with --to"
            )
        entry.unlink()


def _discard(path: Path) -> None:
    """Nothing is there any more where it was renamed."""
    with suppress(OSError, UserError):
        _empty(path)
        path.rmdir()


def _check_room(target: Path, size_bytes: int) -> None:
    free_bytes = free_disk_bytes(str(target.parent))
    if free_bytes is not None and free_bytes < size_bytes + _SPARE_BYTES:
        raise UserError(
            f"{target} needs {size_bytes / 1e9:.1f} GB, and {free_bytes / 1e9:.1f} GB are free there:"
            " make room, or name another folder with --to"
        )


def _is_taken(target: Path) -> bool:
    return target.exists() or target.is_symlink()


def _taken(target: Path) -> UserError:
    return UserError(f"{target} is there already: name another folder with --to, or remove it")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
