"""The board that pictures are painted from: what is published here and what others publish, by topic.

`mesh.gossip.driver.Gossip` is one.
"""

from __future__ import annotations

from typing import Protocol

from mesh.feed import Subscription
from protocols.gossip import Heard, Topic


class Board(Protocol):
    def publish(self, topic: Topic, key: str, body: bytes, ttl_s: float) -> None:
        """This node's newest word under (topic, key)."""

    def items(self, topic: Topic) -> tuple[Heard, ...]:
        """The newest of every author and key that has not expired, own ones included."""

    def subscribe(self, topic: Topic) -> Subscription[Heard]:
        """What comes from this call on."""
