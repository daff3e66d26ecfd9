"""A board without gossip, for pictures of one node."""

from __future__ import annotations

from mesh.feed import Feed, Subscription
from protocols.gossip import Heard, Topic
from protocols.ids import PeerId
from protocols.seams import Clock


class LocalBoard:
    """A board that nobody else writes on."""

    def __init__(self, own: PeerId, clock: Clock) -> None:
        self._own = own
        self._clock = clock
        self._sequence = 0
        self._items: dict[tuple[Topic, str], tuple[float, Heard]] = {}
        self._feeds = {topic: Feed[Heard]() for topic in Topic}

    def publish(self, topic: Topic, key: str, body: bytes, ttl_s: float) -> None:
        self._sequence += 1
        heard = Heard(self._own, topic, key, body, int(self._clock.wall() * 1000), self._sequence)
        self._items[topic, key] = (self._clock.monotonic() + ttl_s, heard)
        self._feeds[topic].tell(heard)

    def items(self, topic: Topic) -> tuple[Heard, ...]:
        now = self._clock.monotonic()
        return tuple(
            heard for expires_s, heard in self._items.values() if heard.topic is topic and expires_s > now
        )

    def subscribe(self, topic: Topic) -> Subscription[Heard]:
        return self._feeds[topic].subscribe()
