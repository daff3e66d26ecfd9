"""Token buckets: how much one neighbour or author may cost this node. Pure; times are those of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocols import limits

IDS_PER_MESSAGE: Final = 16  # so many ids to look up cost as much as a message


@dataclass(slots=True)
class Bucket:
    """Holds up to `burst` tokens and gains `per_s` of them every second; begins full."""

    per_s: float
    burst: float
    _left: float = field(init=False)
    _at: float | None = None

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, tokens: float, now: float) -> bool:
        """Whether there were as many; if not, none are taken."""
        if self._at is not None and now > self._at:
            self._left = min(self.burst, self._left + (now - self._at) * self.per_s)
        self._at = now
        if tokens > self._left:
            return False
        self._left -= tokens
        return True


def _messages() -> Bucket:
    return Bucket(limits.GOSSIP_PEER_PER_S, limits.GOSSIP_PEER_BURST)


def _bytes() -> Bucket:
    return Bucket(limits.GOSSIP_PEER_BYTES_PER_S, limits.GOSSIP_PEER_BYTES_BURST)


def _forged() -> Bucket:
    return Bucket(limits.GOSSIP_FORGED_PER_MIN / 60, limits.GOSSIP_FORGED_PER_MIN)


def _strangers() -> Bucket:
    return Bucket(limits.GOSSIP_STRANGERS_PER_S, limits.MEMBERS_MAX)


def _repairs() -> Bucket:
    return Bucket(limits.GOSSIP_REPAIRS_PER_S, limits.GOSSIP_REPAIRS_BURST)


@dataclass(slots=True)
class PeerRates:
    """What one neighbour may send: kept while it is a neighbour and a while longer, so that coming back does not fill it."""

    messages: Bucket = field(default_factory=_messages)
    bytes: Bucket = field(default_factory=_bytes)
    forged: Bucket = field(default_factory=_forged)
    repairs: Bucket = field(default_factory=_repairs)
    strangers: Bucket = field(default_factory=_strangers)
    used_at: float = 0.0

    def admits(self, size_bytes: int, ids: int, now: float) -> bool:
        """Whether a message of that size and with so many ids is within both rates."""
        self.used_at = now
        return self.messages.take(1 + ids / IDS_PER_MESSAGE, now) and self.bytes.take(size_bytes, now)


def author_bucket() -> Bucket:
    """For the bundles of one author, whoever relays them."""
    return Bucket(limits.GOSSIP_AUTHOR_PER_S, limits.GOSSIP_AUTHOR_BURST)
