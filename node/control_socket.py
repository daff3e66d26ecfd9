"""Binding the control socket: mode 0600 in a 0700 folder, and nobody else's file is ever removed.

The rule of the file: a leftover socket is removed only while the home's lock is held, so that it can't be a live one.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from protocols import limits
from protocols.errors import UserError

_PATH_BYTES_MAX: Final = 107  # sun_path of 108 with its closing zero; 103 elsewhere than on Linux
_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid


@contextmanager
def bound_control_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path`, removed at the end. The caller holds the home's lock. Raises `UserError`."""
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise UserError(f"the path {path} is too long for a unix socket. Set WEFT_HOME to a shorter one.")
    _remove_leftover(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)  # until here the 0700 folder keeps others out
        listener.listen(limits.CONTROL_CLIENTS_MAX)
    except OSError as error:
        listener.close()
        raise UserError(
            f"the control socket {path} can't be made ({error.strerror}). Set WEFT_HOME to a folder of yours."
        ) from error
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


def _remove_leftover(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
        raise UserError(
            f"{path} is in the way and not a socket of yours. Move it away, or set WEFT_HOME elsewhere."
        )
    path.unlink()


def peer_uid(credentials: bytes) -> int:
    """The user id in what SO_PEERCRED gives."""
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)


CREDENTIALS_BYTES: Final = _CREDENTIALS.size
