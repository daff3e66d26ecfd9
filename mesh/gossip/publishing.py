"""What this node says: gathered for a moment, then signed as one bundle.

The sequence is the wall clock in ms, and always above the last one: so it rises over restarts without being kept on disk,
and when the clock is put back it goes on from where it was. A node that restarted *and* whose clock was put back may be below
what others hold of it; it hears that from them when its first link is repaired, adopts the greater sequence, and says all
that it has said again above it. It can be ahead by `GOSSIP_AHEAD_S` at most, because others refused what was dated later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from protocols import limits
from protocols.errors import LocalFault
from protocols.gossip import Bundle, Item, Push, Topic, encode_bundle
from protocols.ids import PeerId

ITEM_BYTES_BESIDE: Final = 16  # of an item's encoding, beside its key and body
BUNDLE_BYTES_BESIDE: Final = 128


class Outbox:
    """Pure. `sign` gives the signature over a bundle's encoding."""

    def __init__(self, own: PeerId, sign: Callable[[bytes], bytes]) -> None:
        self._own = own
        self._sign = sign
        self._waiting: dict[tuple[Topic, str], Item] = {}
        self._bytes = BUNDLE_BYTES_BESIDE
        self._sealed_at = -math.inf
        self.sequence = -1
        self.deadline = math.inf

    def put(self, item: Item, now: float) -> list[Item]:
        """Gives what has to be sealed first because both don't fit into one bundle."""
        topic, key = Topic(item.topic), item.key
        size_bytes = _size_bytes(item)
        before: list[Item] = []
        if old := self._waiting.pop((topic, key), None):
            self._bytes -= _size_bytes(old)
        if (
            len(self._waiting) >= limits.GOSSIP_ITEMS_MAX
            or self._bytes + size_bytes > limits.GOSSIP_BUNDLE_BYTES_MAX
        ):
            before = self.take(now)
        self._waiting[topic, key] = item
        self._bytes += size_bytes
        if self.deadline == math.inf:
            self.deadline = max(now + limits.GOSSIP_GATHER_S, self._sealed_at + limits.GOSSIP_COALESCE_S)
        return before

    def is_waiting(self, topic: Topic, key: str) -> bool:
        return (topic, key) in self._waiting

    def take(self, now: float) -> list[Item]:
        """All that waits."""
        items = list(self._waiting.values())
        self._waiting = {}
        self._bytes = BUNDLE_BYTES_BESIDE
        self._sealed_at = now
        self.deadline = math.inf
        return items

    def seal(self, items: list[Item], wall_ms: int) -> tuple[Bundle, Push]:
        """Sign them as the next bundle."""
        self.sequence = max(self.sequence + 1, wall_ms)
        bundle = Bundle(self._own, self.sequence, wall_ms, tuple(items))
        body = encode_bundle(bundle)
        return bundle, Push(0, body, self._sign(body))


def word_of(topic: Topic, key: str, body: bytes, ttl_s: float) -> Item:
    """Raises `LocalFault` for one that gossip can't carry."""
    if len(key) > limits.GOSSIP_KEY_CHARS_MAX or len(body) > limits.GOSSIP_ITEM_BYTES_MAX:
        raise LocalFault(f"{topic.name} {key[:40]!r} with {len(body)} bytes is more than gossip carries")
    if not 0 < ttl_s <= limits.GOSSIP_TTL_S_MAX:
        raise LocalFault(f"a word can't last {ttl_s:g} s")
    return Item(int(topic), key, body, math.ceil(ttl_s))


def _size_bytes(item: Item) -> int:
    return len(item.key.encode()) + len(item.body) + ITEM_BYTES_BESIDE
