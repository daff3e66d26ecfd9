"""What the operator asked to run: a shipped scenario, a scenario file, or a script file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from protocols.errors import UserError
from simulations.running.corpus import read
from simulations.running.failure import run_command
from simulations.scenarios.drawing import draw
from simulations.scenarios.scenario import load
from simulations.scenarios.script import Script

SEED: Final = 1
_SCRIPT_SUFFIX: Final = ".json"

CommandT = TypeVar("CommandT", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Asked:
    """`command` is what runs the same again."""

    script: Script
    command: str


_OPTIONS: Final = (
    click.argument("scenario", metavar="SCENARIO|FILE"),
    click.option(
        "--seed", type=click.IntRange(0), help=f"What is drawn is drawn from it.  [default: {SEED}]"
    ),
    click.option("--nodes", type=click.IntRange(1, 10_000), help="Instead of what the scenario says."),
    click.option(
        "--minutes",
        type=click.FloatRange(0, 10_000, min_open=True),
        help="Virtual ones, instead of what the scenario says.",
    ),
)


def scenario_options(command: CommandT) -> CommandT:
    """SCENARIO, --seed, --nodes and --minutes, of whatever runs one."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def find(scenario: str, seed: int | None, nodes: int | None, minutes: float | None) -> Asked:
    """The script to run. Raises `UserError` for what is neither a scenario nor a script, or can't be had that way."""
    if scenario.endswith(_SCRIPT_SUFFIX):
        return _kept(scenario, {"--seed": seed, "--nodes": nodes, "--minutes": minutes})
    seed = SEED if seed is None else seed
    return Asked(draw(load(scenario), seed, nodes, minutes), run_command(scenario, seed, nodes, minutes))


def _kept(path: str, options: dict[str, Any]) -> Asked:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(
            f"{path} is a script, in which everything is spelled out: leave out {' and '.join(given)}."
        )
    return Asked(read(Path(path)).script, run_command(path))
