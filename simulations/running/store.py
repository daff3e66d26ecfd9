"""The file of a sweep: a header, then one outcome per line, appended as the runs end.

    {"format":1,"scenario":"churn", …}        Header
    {"scenario":"churn","seed":0, …}          Outcome
    {"seed":17,"broken":"…"}                  Broken

A sweep that is killed loses at most the line it was writing. A seed may have several lines: the last one counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from protocols.errors import UserError
from simulations.running.failure import package_digest, run_command
from simulations.running.outcome import Outcome

FORMAT: Final = 1
FILE: Final = "outcomes.jsonl"


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """What all outcomes of a file have in common. `source` is how the operator named the scenario, `text` what it says;
    `nodes` and `minutes` are None where the scenario decides."""

    scenario: str
    source: str
    text: str
    package_digest: str
    scenario_digest: str = ""
    nodes: int | None = None
    minutes: float | None = None
    format: int = FORMAT

    def command(self, seed: int) -> str:
        """What shows one of its seeds again."""
        return run_command(self.source, seed, self.nodes, self.minutes)


def header_of(
    name: str, source: str, text: str, nodes: int | None = None, minutes: float | None = None
) -> Header:
    """Of outcomes that this code will have."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Header(name, source, text, package_digest(), digest, nodes, minutes)


class Broken(Struct, frozen=True, forbid_unknown_fields=True):
    """A seed that has no outcome, and why."""

    seed: int
    broken: str


Result = Outcome | Broken


class Store:
    """What a folder has so far: `results` by seed; `note` says what had to be dropped."""

    def __init__(self, header: Header, results: dict[int, Result], note: str, file: int) -> None:
        self.header = header
        self.results = results
        self.note = note
        self._file = file

    def append(self, result: Result) -> None:
        """Raises `UserError` if the disk has no room for it."""
        self.results[result.seed] = result
        _append(self._file, msgspec.json.encode(result))


@contextmanager
def open_store(folder: Path, header: Header, *, fresh: bool = False) -> Iterator[Store]:
    """The folder's file, made if need be, for one writer at a time.

    Raises `UserError` if it holds outcomes of something else, is no such file, or is being written by another sweep.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"{folder} can't hold a sweep ({error.strerror}): name another folder with --out"
        ) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another sweep is writing to {folder}: wait for it, or name another folder"
            ) from error
        if fresh:
            os.ftruncate(file, 0)
        yield _continued(path, header, file)
    finally:
        os.close(file)


def read_store(folder: Path) -> Store:
    """For reports: nothing is changed. Raises `UserError` if there is nothing to read."""
    path = folder / FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{folder} holds no sweep: 'weft sim sweep SCENARIO --out {folder}' makes one"
        ) from error
    header, results, kept = _decoded(data, path)
    if header is None:
        raise UserError(f"{path} has not even a header: run the sweep again")
    return Store(header, results, _note(data, kept), -1)


def _continued(path: Path, header: Header, file: int) -> Store:
    data = path.read_bytes()
    found, results, kept = _decoded(data, path)
    if found is None or not results:
        os.ftruncate(file, 0)
        _append(file, msgspec.json.encode(header))
        return Store(header, {}, _note(data, kept), file)
    _check_same(found, header, path)
    os.ftruncate(file, kept)
    return Store(header, results, _note(data, kept), file)


def _decoded(data: bytes, path: Path) -> tuple[Header | None, dict[int, Result], int]:
    """Header, results, and how many bytes of the file are whole lines."""
    kept = data.rfind(b"\n") + 1
    first, *rest = data[:kept].splitlines() or [b""]
    if not first:
        if b"\0" in data or (data and not data.startswith(b"{")):
            raise UserError(f"{path} is no file of a sweep: name another folder with --out")
        return None, {}, 0
    header = _header(first, path)
    results: dict[int, Result] = {}
    for number, line in enumerate(rest, 2):
        result = _result(line)
        if result is None:
            raise UserError(
                f"{path} is damaged at line {number}: remove that line, or begin anew with --fresh"
            )
        results[result.seed] = result
    return header, results, kept


def _header(line: bytes, path: Path) -> Header:
    class Versioned(Struct):
        format: int

    try:
        version = msgspec.json.decode(line, type=Versioned).format
        if version != FORMAT:
            raise UserError(
                f"{path} has format {version} and this release writes {FORMAT}: name another folder, or --fresh"
            )
        return msgspec.json.decode(line, type=Header)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is no file of a sweep: name another folder with --out") from error


def _result(line: bytes) -> Result | None:
    kinds: tuple[type[Result], ...] = (Outcome, Broken)
    for kind in kinds:
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return None


def _check_same(found: Header, wanted: Header, path: Path) -> None:
    tellings: tuple[tuple[str, Callable[[Header], object]], ...] = (
        ("scenario {}", lambda header: header.scenario),
        ("another text of that scenario", lambda header: header.scenario_digest),
        ("a sweep {}", lambda header: _with("--nodes", header.nodes)),
        ("a sweep {}", lambda header: _with("--minutes", header.minutes)),
        ("other code (package {})", lambda header: header.package_digest),
    )
    for telling, part in tellings:
        if part(found) != part(wanted):
            raise UserError(
                f"{path} is of {telling.format(part(found))}: name another folder with --out, or begin anew with --fresh"
            )


def _with(option: str, value: float | None) -> str:
    return f"without {option}" if value is None else f"with {option} {value:g}"


def _note(data: bytes, kept: int) -> str:
    return (
        f"the last line was cut short ({len(data) - kept} bytes) and is dropped" if len(data) > kept else ""
    )


def _append(file: int, line: bytes) -> None:
    left = memoryview(line + b"\n")
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError as error:
        raise UserError(
            f"the outcome can't be kept ({error.strerror}): make room, then run the same again"
        ) from error
