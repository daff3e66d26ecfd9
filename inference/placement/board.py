"""Where holders tell what they hold, and hear it of one another.

The rule of the file: a board carries words and checks nobody's rights to them but one: what is told of a holder came from that
holder. What it makes of them is the table's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from protocols.ids import PeerId
from protocols.placement import Claims

Hear = Callable[[PeerId, Claims], None]
"""All that this holder holds now. Raises `RemoteFault` for claims that break the rules; it must not wait."""

Down = Callable[[PeerId], None]
"""That holder is out of reach: nothing it told counts until it is heard of again."""


class ClaimBoard(Protocol):
    """`listen` comes first, then `run`. The claims of a holder that went down are out in the same call in which that is known.

    A board that spreads single claims (one item per model and range) puts those of one holder together again before it tells
    of them.
    """

    def listen(self, hear: Hear, down: Down) -> None:
        """From now on call these, in the task of the board."""

    def publish(self, own: Claims) -> None:
        """What this node holds now, in place of all it published before. Never waits."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
