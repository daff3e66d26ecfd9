"""One run as a thing that can be handed to another process or machine: everything it needs is in it.

Apart from what carries it out, so that whoever only hands tasks on need not import whole daemons.
"""

from __future__ import annotations

from msgspec import Struct

from simulations.scenarios.script import Script


class Task(Struct, frozen=True):
    """A script that is spelled out, or else what a scenario's text gives for a seed.

    `number` tells the tasks of one engine apart; in a sweep it is the seed.
    """

    number: int
    script: Script | None = None
    scenario: str = ""
    text: str = ""
    seed: int = 0
    nodes: int | None = None
    minutes: float | None = None
