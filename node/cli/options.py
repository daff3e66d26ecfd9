"""Options that several verbs take, and how they reach the daemon."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from node.control_client import ControlClient
from node.folders import Folders, find_folders

home_option = click.option(
    "--home", metavar="FOLDER", help="The node's home; otherwise $WEFT_HOME, otherwise the XDG folders."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


def folders_of(home: str | None) -> Folders:
    return find_folders(os.environ, home)


def connect(home: str | None) -> ControlClient:
    """Raises `NoDaemon`."""
    return ControlClient(folders_of(home).socket)


def echo_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
