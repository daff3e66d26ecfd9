"""Options that several verbs take, and how they reach the daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from node.control_client import ControlClient
from node.folders import Folders, find_folders

home_option = click.option(
    "--home", metavar="FOLDER", help="The node's home; otherwise $WEFT_HOME, otherwise the XDG folders."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


CommandT = TypeVar("CommandT", bound=Callable[..., None])

_GOAL_OPTIONS = (
    click.option(
        "--on",
        multiple=True,
        metavar="NODE",
        help="Only on these members, by name or peer id; repeatable.",
    ),
    click.option(
        "--replicas",
        type=click.IntRange(1, 4),
        default=2,
        show_default=True,
        help="Copies of every range, the serving one included.",
    ),
    click.option(
        "--strategy",
        type=click.Choice(["balanced", "interactive", "throughput"]),
        default="balanced",
        show_default=True,
        help="Every node takes part; least time per token of one stream; most tokens per second of many.",
    ),
    click.option(
        "--standby",
        type=click.Choice(["auto", "hot", "mapped", "cold", "none"]),
        default="auto",
        show_default=True,
        help="How standbys are kept: auto is mapped where disk allows, else hot, else cold.",
    ),
)


def goal_options(command: CommandT) -> CommandT:
    """--on, --replicas, --strategy and --standby, of whatever makes a plan."""
    for option in reversed(_GOAL_OPTIONS):
        command = option(command)
    return command


def goal_params(on: tuple[str, ...], replicas: int, strategy: str, standby: str) -> dict[str, Any]:
    """As the daemon takes them."""
    return {"on": on, "goal": {"strategy": strategy, "replicas": replicas, "standby": standby}}


def folders_of(home: str | None) -> Folders:
    return find_folders(os.environ, home)


def connect(home: str | None) -> ControlClient:
    """Raises `NoDaemon`."""
    return ControlClient(folders_of(home).socket)


def echo_json(value: dict[str, Any]) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))
