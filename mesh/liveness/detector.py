"""The seam of failure detection: what the rest of a node sees of whichever detector stands behind it.

           suspected by a monitor        by enough of them, and not refuted
    ALIVE ------------------------> SUSPECT ------------------------> DEAD
      ^ ^________ raised incarnation ___|                               |
      |__________ raised incarnation (refuted, or started again) _______|      LEFT: said so itself

For one incarnation a state never goes back: only the node itself, by a higher one, undoes what was said of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from mesh.feed import Subscription
from protocols.ids import PeerId


class State(IntEnum):
    """In the order in which one incarnation goes through them."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


@dataclass(frozen=True, slots=True)
class MemberAlive:
    """Seen for the first time in this run, or again, or in another run of its own than was known."""

    peer: PeerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberSuspect:
    """A monitor can't reach it; nothing is decided."""

    peer: PeerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberDead:
    """Enough monitors can't reach it, and it did not object."""

    peer: PeerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """It went on purpose, or is no member any more."""

    peer: PeerId
    incarnation: int


DetectorEvent = MemberAlive | MemberSuspect | MemberDead | MemberLeft


class Detector(Protocol):
    """Which members live, as far as this node knows. A member that has not been heard of is DEAD."""

    def state(self, peer: PeerId) -> State: ...
    def states(self) -> Mapping[PeerId, State]:
        """Of every member that was ever heard of in this run."""

    def subscribe(self) -> Subscription[DetectorEvent]:
        """Changes from this call on."""
