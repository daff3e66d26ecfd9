"""A group of verbs that are imported one at a time: none is imported for another's sake, nor for the list of all."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

import click


class Verbs(click.Group):
    """`verbs` has a line of help for each; each is the command of its name in the module of its name in `package`.

    In Python a hyphen of a name is an underscore, and a command whose name is taken there ends in one, as does the module of
    a verb that is a keyword.
    """

    def __init__(self, *, verbs: Mapping[str, str], package: str, **options: Any) -> None:
        super().__init__(**options)
        self._verbs = verbs
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        name = cmd_name.replace("-", "_")
        module_name = f"{name}_" if iskeyword(name) else name
        module = importlib.import_module(f"{self._package}.{module_name}")
        command = getattr(module, name, None) or getattr(module, f"{name}_")
        assert isinstance(command, click.Command)
        return command

    def lines(self) -> list[tuple[str, str]]:
        """What --help lists."""
        return list(self._verbs.items())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.lines())
