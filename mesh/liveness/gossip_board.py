"""The board of liveness items over gossip, and what must hold of such an item before it is believed or passed on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import structlog

from mesh.feed import Subscription
from protocols.errors import Malformed, Overloaded
from protocols.gossip import Heard, Topic
from protocols.ids import PeerId
from protocols.liveness import ITEM_CODEC, OWN_KEY, LivenessItem, Suspect, key_of

log = structlog.get_logger()


class Words(Protocol):
    """What a board needs of `mesh.gossip.driver.Gossip`."""

    def publish(self, topic: Topic, key: str, body: bytes, ttl_s: float) -> None: ...
    def items(self, topic: Topic) -> tuple[Heard, ...]: ...
    def subscribe(self, topic: Topic) -> Subscription[Heard]: ...


def check_liveness(heard: Heard) -> None:
    """The validator of topic LIVENESS. Raises `Malformed`."""
    item = ITEM_CODEC.decode(heard.body)
    if heard.key != key_of(item):
        raise Malformed("a liveness item under a key of another", heard.author)
    if isinstance(item, Suspect) and item.subject == heard.author:
        raise Malformed("nobody suspects itself", heard.author)


class GossipBoard:
    """Implements `mesh.liveness.watch.LivenessBoard`."""

    def __init__(self, gossip: Words, own: PeerId) -> None:
        self._gossip = gossip
        self._own = own

    def publish(self, item: LivenessItem, ttl_s: float) -> None:
        self._gossip.publish(Topic.LIVENESS, key_of(item), ITEM_CODEC.encode(item), ttl_s)

    def withdraw(self, subject: PeerId) -> None:
        assert subject != OWN_KEY
        self._gossip.publish(Topic.LIVENESS, subject, b"", 1.0)

    def said(self) -> Iterator[tuple[PeerId, LivenessItem]]:
        for heard in self._gossip.items(Topic.LIVENESS):
            if heard.author != self._own:
                yield heard.author, ITEM_CODEC.decode(heard.body)

    async def items(self) -> AsyncIterator[tuple[PeerId, LivenessItem]]:
        while True:
            with self._gossip.subscribe(Topic.LIVENESS) as news:
                for each in self.said():
                    yield each
                try:
                    async for heard in news:
                        if heard.body and heard.author != self._own:
                            yield heard.author, ITEM_CODEC.decode(heard.body)
                except Overloaded:
                    log.warning("liveness items were missed, all are read again")
                else:
                    return
