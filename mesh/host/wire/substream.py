"""One stream of a yamux connection, as its machine keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.host.wire.inbox import Inbox
from protocols import limits
from protocols.streams import Priority


@dataclass(eq=False, slots=True)
class Substream:
    """One stream. `credit_bytes` may still be sent; `window_bytes` may still come; their sum with what is in the inbox and
    what was read since the last update is `target_bytes`. `is_ending`: closed here, though the peer is told only behind what
    was sent before."""

    number: int
    is_ours: bool
    priority: Priority = Priority.NORMAL
    credit_bytes: int = limits.STREAM_WINDOW_BYTES
    window_bytes: int = limits.STREAM_WINDOW_BYTES
    target_bytes: int = limits.STREAM_WINDOW_BYTES
    read_bytes: int = 0
    inbox: Inbox = field(default_factory=Inbox)
    is_ending: bool = False
    has_ended_here: bool = False
    has_ended_there: bool = False
    was_reset: bool = False

    @property
    def target_bytes_max(self) -> int:
        """What its window may grow to."""
        if self.priority is Priority.URGENT:
            return limits.URGENT_WINDOW_BYTES_MAX
        return limits.STREAM_WINDOW_BYTES_MAX

    @property
    def is_gone(self) -> bool:
        return self.was_reset or (self.has_ended_here and self.has_ended_there)
