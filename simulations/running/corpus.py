"""Scripts of past failures, kept so that every one of them is run again for ever; and how script files are read.

A file is one JSON object: either a script as it is, or a script with the name of the bug that it once found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from protocols.errors import NotFound, UserError
from simulations.running.naming import strangers
from simulations.scenarios.script import FORMAT, Script

FOLDER: Final = Path(__file__).resolve().parent.parent / "corpus"
FILE_BYTES_MAX: Final = 16 << 20


class Kept(Struct, frozen=True, forbid_unknown_fields=True):
    """A script and, if it has found one, the bug and the invariant that was violated, as `simulations/BUGS.md` names them."""

    script: Script
    bug: str = ""
    invariant: str = ""


class _Head(Struct, frozen=True):
    """What tells the two kinds of file apart, and one version from another."""

    format: int = FORMAT
    script: _Head | None = None


def load_all(folder: Path = FOLDER) -> dict[str, Kept]:
    """Every file of the corpus by its name, sorted. Raises `UserError` for one that this release can't read."""
    return {path.stem: read(path) for path in sorted(folder.glob("*.json"))}


def read(path: Path) -> Kept:
    """A script from a file. Raises `UserError` with what is wrong with it and what to do."""
    return decode(_bytes_of(path), str(path))


def decode(data: bytes, name: str) -> Kept:
    """A script from the bytes of a file; `name` is for the error. Raises `UserError`."""
    try:
        head = msgspec.json.decode(data, type=_Head)
        _check_format((head.script or head).format, name)
        kept = (
            msgspec.json.decode(data, type=Kept)
            if head.script is not None
            else Kept(msgspec.json.decode(data, type=Script))
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is no script: {error}. Write one with 'weft sim shrink'.") from None
    _check_names(kept.script, name)
    return kept


def encode(kept: Kept | Script) -> bytes:
    """As files hold it: indented, with a line at the end."""
    return msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n"


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UserError(f"{path} is no script: it has more than {FILE_BYTES_MAX >> 20} MiB.")
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}. 'weft sim list' names the scenarios.") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}. Give the path of a script file.") from None


def _check_format(found: int, name: str) -> None:
    if found != FORMAT:
        raise UserError(
            f"{name}: this script is of format {found}; this release reads {FORMAT}: "
            "draw it anew with 'weft sim run SCENARIO --seed N', or run it with the release that wrote it."
        )


def _check_names(script: Script, name: str) -> None:
    names = [node.name for node in script.nodes]
    doubled = sorted({each for each in names if names.count(each) > 1})
    if doubled:
        raise UserError(f"{name}: two nodes are called {doubled[0]}. Give every node a name of its own.")
    unknown = strangers(script)
    if unknown:
        raise UserError(
            f"{name}: it names {', '.join(unknown)}, and there is no such node. Add it to 'nodes', or drop what names it."
        )
