"""Where the daemon stands: starting, ready or draining. Control socket and HTTP ask here for the node.

STARTING --ready(api)--> READY --stop()--> DRAINING --withdraw()--> (the node is gone, the process ends)
    |                                          ^
    +----------------- stop() -----------------+
"""

from __future__ import annotations

import os
from enum import Enum
from importlib.metadata import version
from typing import Any

import msgspec
import trio

from node.api import NodeApi
from protocols.errors import Unavailable
from protocols.seams import Clock


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """One daemon's state. `stopping` is set once it has been asked to go down, `withdrawn` once nobody may use the node."""

    def __init__(self, home: str, clock: Clock) -> None:
        self.state = State.STARTING
        self.stopping = trio.Event()
        self.withdrawn = trio.Event()
        self.http: str | None = None
        self.version = version("weft")
        self._home = home
        self._clock = clock
        self._since = clock.monotonic()
        self._api: NodeApi | None = None

    @property
    def api(self) -> NodeApi:
        """The node; raises `Unavailable` while there is none."""
        if self._api is not None:
            return self._api
        if self.state is State.STARTING:
            raise Unavailable("The node is still starting: try again when 'weft status' says ready.")
        raise Unavailable("The node is going down: start it again with 'weft up'.")

    def ready(self, api: NodeApi) -> None:
        self._api = api
        if not self.stopping.is_set():
            self.state = State.READY

    def stop(self) -> None:
        """Ask the daemon to drain and end; idempotent."""
        self.state = State.DRAINING
        self.stopping.set()

    def withdraw(self) -> None:
        """From now on nobody gets at the node, because it is being taken down."""
        self._api = None
        self.withdrawn.set()

    def status(self) -> dict[str, Any]:
        """What `weft status --json` prints; only the first six keys are there before the node is."""
        facts: dict[str, Any] = {
            "state": self.state.value,
            "version": self.version,
            "pid": os.getpid(),
            "uptime_s": round(self._clock.monotonic() - self._since, 3),
            "home": self._home,
            "http": self.http,
        }
        if self._api is not None:
            facts |= msgspec.to_builtins(self._api.status())
        return facts
