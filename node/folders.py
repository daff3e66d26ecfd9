"""Where a node keeps its things, and the lock that lets only one daemon run on them.

`WEFT_HOME` moves everything; otherwise the XDG folders are used. The rule of the file: standard library only, since the
command line imports it; and the environment is handed in.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import LocalFault, UserError


@dataclass(frozen=True, slots=True)
class Folders:
    """All of one node's folders. `state` holds identity and lock, `data` models, `runtime` the control socket."""

    config: Path
    state: Path
    data: Path
    cache: Path
    runtime: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def lock_file(self) -> Path:
        return self.state / "weft.lock"

    @property
    def socket(self) -> Path:
        return self.runtime / "weft.sock"

    def make(self) -> None:
        """Create what is missing, readable by the owner alone. Raises `UserError`."""
        for folder in (self.config, self.state, self.data, self.cache, self.runtime):
            _make_private(folder)

    def read_config(self) -> str | None:
        """The text of config.toml, None if there is none. Raises `UserError` if it can't be read."""
        try:
            return self.config_file.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.config_file} can't be read ({error}). Mend it or move it away, then start again."
            ) from error


def find_folders(environment: Mapping[str, str], home: str | None = None) -> Folders:
    """`home` (a flag) wins over WEFT_HOME, which wins over the XDG variables."""
    root_text = home or environment.get("WEFT_HOME")
    if root_text:
        root = Path(root_text).expanduser().absolute()
        return Folders(root, root / "state", root / "data", root / "cache", root / "run")
    user = Path(environment.get("HOME") or "~").expanduser()

    def xdg(variable: str, fallback: str) -> Path:
        return Path(environment.get(variable) or user / fallback) / "weft"

    state = xdg("XDG_STATE_HOME", ".local/state")
    runtime = environment.get("XDG_RUNTIME_DIR")
    return Folders(
        config=xdg("XDG_CONFIG_HOME", ".config"),
        state=state,
        data=xdg("XDG_DATA_HOME", ".local/share"),
        cache=xdg("XDG_CACHE_HOME", ".cache"),
        runtime=Path(runtime) / "weft" if runtime else state / "run",
    )


@contextmanager
def only_daemon(folders: Folders) -> Iterator[None]:
    """Hold the home's lock while the context is open; raises `UserError` naming the pid if another daemon has it.

    The kernel frees the lock with its process, so that a crash leaves nothing to clean up.
    """
    try:
        lock = os.open(folders.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(
            f"{folders.lock_file} can't be opened ({error.strerror}). Set WEFT_HOME to a folder of yours."
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise UserError(
                f"another daemon runs on this home (pid {pid}): stop it with 'weft down' or set WEFT_HOME."
            ) from None
        except OSError as error:
            raise LocalFault(f"{folders.lock_file} can't be locked: {error.strerror}") from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


def is_locked(folders: Folders) -> bool:
    """Whether a daemon runs on this home."""
    try:
        lock = os.open(folders.lock_file, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise UserError(f"{folder} belongs to another user. Set WEFT_HOME to a folder of yours.")
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"{folder} can't be made ({error.strerror}). Set WEFT_HOME to a folder of yours."
        ) from error
