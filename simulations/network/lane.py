"""One direction between two machines on one plane, shared by all connections there: when what is sent now will arrive.

    latency       light and routers: the same for every segment
    jitter        a uniform share of `jitter_s` on top, for each segment; a connection keeps its order all the same
    bandwidth     segments leave one after the other, each when the one before it has gone: they queue
    loss          a lost segment is sent again after the retransmission timeout, which doubles each time (RFC 6298, 5.5);
                  what is behind it on its connection waits, since TCP delivers in order
    closed        nothing arrives; whatever waited is sent again within a timeout of the opening

The timeout is twice the round trip, 200 ms at least as in Linux (RFC 6298 has 1 s) and 60 s at most. A segment is what one
call puts on the wire; fast retransmission is left out, so that loss costs more here than on long transfers in reality.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import trio

from protocols.ids import PeerId
from protocols.streams import Plane
from simulations.chance import Chance
from simulations.network.delivery import Delivery, ceil_ms

RETRANSMISSION_S_MIN: Final = 0.2
RETRANSMISSION_S_MAX: Final = 60.0
HEADER_BYTES: Final = 82  # IP 20, TCP 32, Noise 18, yamux 12: around every segment
HANDSHAKE_BYTES: Final = 500  # the largest message of one holds certificates


class Waiting(Protocol):
    """A connection's direction, which knows what has not arrived."""

    @property
    def due_ms(self) -> int: ...
    def resume(self, at_ms: int) -> None:
        """What waited arrives then, and nothing before it."""


class Lane:
    """Made by `Links`, which describes it anew with every change."""

    __slots__ = (
        "_bandwidth_bytes_s",
        "_chance",
        "_free_at_s",
        "_is_plain",
        "_jitter_s",
        "_latency_s",
        "_loss",
        "_retransmission_s",
        "_waiting",
        "delivery",
        "is_open",
        "name",
        "plane",
        "source",
        "target",
    )

    def __init__(self, source: PeerId, target: PeerId, plane: Plane, delivery: Delivery) -> None:
        self.source = source
        self.target = target
        self.plane = plane
        self.delivery = delivery
        self.name = f"{source[-8:]} {target[-8:]} {plane.value}"
        self.is_open = True
        self._waiting: dict[Waiting, None] = {}
        self._free_at_s = 0.0
        self.describe(0.0, 0.0, math.inf, 0.0, round_trip_s=0.0, chance=None)

    def describe(
        self,
        latency_s: float,
        jitter_s: float,
        bandwidth_bytes_s: float,
        loss: float,
        *,
        round_trip_s: float,
        chance: Chance | None,
    ) -> None:
        """From now on."""
        self._latency_s = latency_s
        self._jitter_s = jitter_s
        self._bandwidth_bytes_s = bandwidth_bytes_s
        self._loss = loss
        self._chance = chance
        self._retransmission_s = max(RETRANSMISSION_S_MIN, 2 * round_trip_s)
        self._is_plain = not (jitter_s or loss) and bandwidth_bytes_s == math.inf
        self._free_at_s = 0.0

    def arrival_ms(self, size_bytes: int, after_s: float = 0.0) -> int:
        """When a segment arrives that is sent `after_s` from now, if nothing is in front of it; counts it as sent."""
        now_s = trio.current_time()
        if self._is_plain:
            return ceil_ms(now_s + after_s + self._latency_s)
        gone_s = max(self._free_at_s, now_s) + (size_bytes + HEADER_BYTES) / self._bandwidth_bytes_s
        self._free_at_s = gone_s
        return ceil_ms(gone_s + after_s + self._latency_s + self._delay_s())

    def _delay_s(self) -> float:
        """What chance adds: jitter and losses."""
        if self._chance is None:
            return 0.0
        delay_s = self._chance.uniform(0.0, self._jitter_s)
        timeout_s = self._retransmission_s
        while self._loss and self._chance.random() < self._loss:
            delay_s += timeout_s
            timeout_s = min(2 * timeout_s, RETRANSMISSION_S_MAX)
        return delay_s

    @property
    def due_ms(self) -> int:
        """When the last of what is under way arrives."""
        return max((waiting.due_ms for waiting in self._waiting), default=0)

    # Opening and closing -----------------------------------------------------------------------------------------------

    def enter(self, waiting: Waiting) -> None:
        self._waiting[waiting] = None

    def leave(self, waiting: Waiting) -> None:
        """Idempotent."""
        self._waiting.pop(waiting, None)

    def set_open(self, is_open: bool) -> None:
        """What waits behind a closed lane arrives a timeout after it opens, when it is sent again."""
        was_open, self.is_open = self.is_open, is_open
        if is_open and not was_open:
            for waiting in tuple(self._waiting):
                waiting.resume(self.arrival_ms(0, self._retransmission_s))
