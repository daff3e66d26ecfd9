"""The stream protocols of weft: each with its id, the plane it runs on, and who may open it.

Control and data are two libp2p hosts with one identity, so that a probe never queues behind activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocols import limits


class Plane(Enum):
    CONTROL = "control"
    DATA = "data"


@dataclass(frozen=True, slots=True)
class StreamKind:
    """One protocol. `limit_bytes` bounds its control frames; `for_strangers` opens it to peers that are not members."""

    name: str
    plane: Plane
    limit_bytes: int = limits.CONTROL_BYTES_MAX
    for_strangers: bool = False


JOIN: Final = StreamKind("/weft/join/1", Plane.CONTROL, limits.JOIN_BYTES_MAX, for_strangers=True)
MEMBERS: Final = StreamKind("/weft/members/1", Plane.CONTROL)
PING: Final = StreamKind("/weft/ping/1", Plane.CONTROL, limits.HELLO_BYTES_MAX)
PLACEMENT: Final = StreamKind("/weft/placement/1", Plane.CONTROL)
SESSION: Final = StreamKind("/weft/session/1", Plane.CONTROL)
DECODE: Final = StreamKind("/weft/decode/1", Plane.DATA)
PREFILL: Final = StreamKind("/weft/prefill/1", Plane.DATA)
WEIGHTS: Final = StreamKind("/weft/weights/1", Plane.DATA, limits.MANIFEST_BYTES_MAX)

ALL: Final = (JOIN, MEMBERS, PING, PLACEMENT, SESSION, DECODE, PREFILL, WEIGHTS)
