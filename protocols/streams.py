"""The stream protocols of weft: each with its id, the plane it runs on, and who may open it.

Control and data are two libp2p hosts with one identity, so that a probe never queues behind activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from protocols import limits


class Plane(Enum):
    CONTROL = "control"
    DATA = "data"


class Priority(IntEnum):
    """Whose bytes go first on a connection where several streams have some waiting; the lower value wins."""

    URGENT = 0  # liveness, gossip; decode
    NORMAL = 1  # prefill
    BULK = 2  # weights


@dataclass(frozen=True, slots=True, eq=False)
class StreamKind:
    """One protocol, of which there is one object. `limit_bytes` bounds its control frames; `for_strangers` opens it to peers
    that are not members."""

    name: str
    plane: Plane
    limit_bytes: int = limits.CONTROL_BYTES_MAX
    for_strangers: bool = False
    priority: Priority = Priority.NORMAL


JOIN: Final = StreamKind("/weft/join/1", Plane.CONTROL, limits.JOIN_BYTES_MAX, for_strangers=True)
MEMBERS: Final = StreamKind("/weft/members/1", Plane.CONTROL)
PING: Final = StreamKind("/weft/ping/1", Plane.CONTROL, limits.HELLO_BYTES_MAX, priority=Priority.URGENT)
PLACEMENT: Final = StreamKind("/weft/placement/1", Plane.CONTROL)
GOSSIP: Final = StreamKind("/weft/gossip/1", Plane.CONTROL, priority=Priority.URGENT)
SESSION: Final = StreamKind("/weft/session/1", Plane.CONTROL)
DECODE: Final = StreamKind("/weft/decode/1", Plane.DATA, priority=Priority.URGENT)
PREFILL: Final = StreamKind("/weft/prefill/1", Plane.DATA)
WEIGHTS: Final = StreamKind("/weft/weights/1", Plane.DATA, limits.MANIFEST_BYTES_MAX, priority=Priority.BULK)

ALL: Final = (JOIN, MEMBERS, PING, PLACEMENT, GOSSIP, SESSION, DECODE, PREFILL, WEIGHTS)
