"""Verbs that other packages bring: entry points of the group `weft.commands`, each a click command.

Looking for them takes milliseconds that `weft status` does not have, so nobody does for a verb of our own.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

import click

from protocols.errors import UserError

GROUP: Final = "weft.commands"
# Whatever a module may raise that is broken or that misses something, its bugs included.
_BROKEN: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def find_plugin(verb: str) -> click.Command | None:
    """None if nobody brings that verb. Raises `UserError` if it can't be loaded."""
    for found in entry_points(group=GROUP, name=verb):
        return _load(found)
    return None


def plugin_lines() -> list[tuple[str, str]]:
    """Every verb with its line of help; a broken one says so there."""
    return [
        (found.name, _line(found)) for found in sorted(entry_points(group=GROUP), key=lambda each: each.name)
    ]


def _line(found: EntryPoint) -> str:
    try:
        return _load(found).get_short_help_str(limit=100)
    except UserError as error:
        return str(error)


def _load(found: EntryPoint) -> click.Command:
    origin = f"'{found.name}' of {found.dist.name if found.dist else 'an unknown package'}"
    try:
        command = found.load()
    except _BROKEN as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{origin} does not load ({what}). Install it anew, or remove it.") from None
    if not isinstance(command, click.Command):
        raise UserError(f"{origin} is no command ({found.value}). Install it anew, or remove it.")
    return command
