"""How many handshakes may be under way, in all and from one part of the network; and how fast they may begin.

Whoever has not proved who it is costs a socket and a little arithmetic, so it is bounded by where it comes from: a /24 of
IPv4, a /64 of IPv6, and this machine itself, on which many nodes may run, by bounds of its own that leave room for others.
A machine without I/O; the clock comes in.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict

from protocols import limits
from protocols.errors import Overloaded

LOOPBACK = "loopback"


class HalfOpen:
    """Of one listening host. Every `enter` that returns is followed by one `leave`."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # (handshakes left, when that was)

    @property
    def count(self) -> int:
        return self._open.total()

    def enter(self, address: str, now: float) -> str:
        """What to `leave` with. Raises `Overloaded`; it is not told to the visitor, who gets no answer at all."""
        prefix = prefix_of(address)
        if self.count >= limits.HALF_OPEN_MAX:
            raise Overloaded(f"{limits.HALF_OPEN_MAX} handshakes are under way")
        if self._open[prefix] >= _open_max(prefix):
            raise Overloaded(f"{self._open[prefix]} handshakes from {prefix} are under way")
        self._take_one(prefix, now)
        self._open[prefix] += 1
        return prefix

    def leave(self, prefix: str) -> None:
        self._open[prefix] -= 1
        if not self._open[prefix]:
            del self._open[prefix]

    def _take_one(self, prefix: str, now: float) -> None:
        """From a bucket that holds what may begin in one second."""
        rate = limits.HANDSHAKES_LOOPBACK_PER_S if prefix == LOOPBACK else limits.HANDSHAKES_PER_S
        left, since = self._buckets.pop(prefix, (rate, now))
        left = min(rate, left + (now - since) * rate)
        if len(self._buckets) >= limits.PREFIXES_MAX:
            self._buckets.popitem(last=False)
        self._buckets[prefix] = (max(left - 1.0, 0.0) if left >= 1.0 else left, now)
        if left < 1.0:
            raise Overloaded(f"handshakes from {prefix} begin too fast")


def _open_max(prefix: str) -> int:
    return limits.HALF_OPEN_LOOPBACK_MAX if prefix == LOOPBACK else limits.HALF_OPEN_PER_PREFIX_MAX


def prefix_of(address: str) -> str:
    """The network that an IP address is counted with."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if parsed.is_loopback:
        return LOOPBACK
    return str(ipaddress.ip_network((parsed, 24 if parsed.version == 4 else 64), strict=False))
