"""A scenario: what people write about a run, as TOML. With a seed it becomes a script (`simulations.scenarios.drawing`).

    format = 1
    summary = "Nodes crash one after the other and come back."
    duration_s = 90

    [nodes]
    count = 5

    [workload]
    sessions = 2

    [[draws]]
    draw = "each"
    ...

The ones that ship are in `library`, each called what its file is called.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from protocols.errors import NotFound, UserError
from simulations.scenarios.checks import check
from simulations.scenarios.schema import FORMAT, Scenario

__all__ = ["Scenario", "load", "names", "parse", "read"]

SUFFIX: Final = ".toml"


def load(name_or_path: str) -> Scenario:
    """The shipped scenario of that name, or the one in that file. Raises `UserError`."""
    name, data = read(name_or_path)
    scenario = parse(name, data)
    check(scenario)
    return scenario


def read(name_or_path: str) -> tuple[str, bytes]:
    """The name and the text of a shipped scenario, or of the one in that file. Raises `UserError`."""
    if not (name_or_path.endswith(SUFFIX) or "/" in name_or_path):
        return name_or_path, _shipped(name_or_path)
    path = Path(name_or_path)
    try:
        return path.stem, path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{name_or_path} can't be read ({error.strerror or error}): check the path."
        ) from error


def parse(name: str, data: bytes) -> Scenario:
    """What a file says, as far as its types go. Raises `UserError`."""
    try:
        written = msgspec.toml.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not TOML ({error}): mend that line.") from error
    if written.get("format") != FORMAT:
        raise UserError(
            f"{name} is of format {written.get('format', 'none')}, this weft reads {FORMAT}:"
            f" write 'format = {FORMAT}' and check every key."
        )
    if "name" in written:
        raise UserError(f"{name} has the key 'name': take it out, a scenario is called what its file is.")
    try:
        scenario = msgspec.convert(written, Scenario)
    except msgspec.ValidationError as error:
        raise UserError(f"{name} is no scenario: {_in_words(error)}.") from error
    return replace(scenario, name=name)


def names() -> dict[str, str]:
    """The scenarios that ship, by name, each with its summary."""
    return {name: parse(name, _shipped(name)).summary for name in _listed()}


def _listed() -> list[str]:
    folder = resources.files(__package__) / "library"
    return sorted(file.name.removesuffix(SUFFIX) for file in folder.iterdir() if file.name.endswith(SUFFIX))


def _shipped(name: str) -> bytes:
    if name not in _listed():
        raise NotFound(
            f"No scenario is called {name!r}: take one of {', '.join(_listed())}, or the path of a {SUFFIX} file."
        )
    return (resources.files(__package__) / "library" / f"{name}{SUFFIX}").read_bytes()


def _in_words(error: msgspec.ValidationError) -> str:
    """Where the value stands, and what was expected there."""
    what, _, where = str(error).partition(" - at ")
    place = where.strip("`").removeprefix("$").removeprefix(".")
    return f"{what.replace('`', chr(39))} at {place}" if place else what.replace("`", "'")
