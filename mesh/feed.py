"""Events for any number of readers, none of which can hold up the others or the teller.

A reader hears everything from its subscription on. One that falls `EVENTS_BEHIND_MAX` behind is ended with `Overloaded`
rather than fed a stream with holes: it can't know what it missed, so it has to start over.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

import trio

from protocols import limits
from protocols.errors import Overloaded

EventT = TypeVar("EventT")

READ_AT_ONCE: Final = (
    limits.EVENTS_BEHIND_MAX
)  # before other tasks have their turn: all that can have gathered


class Subscription(Generic[EventT]):
    """An async iterator over one feed; ends with the feed. Use as a context manager to let go of it early."""

    def __init__(self, feed: Feed[EventT]) -> None:
        self._feed = feed
        self._send, self._events = trio.open_memory_channel[EventT](limits.EVENTS_BEHIND_MAX)
        self._is_behind = False
        self._read_at_once = 0

    def __aiter__(self) -> Subscription[EventT]:
        return self

    async def __anext__(self) -> EventT:
        """Raises `Overloaded` once what was kept is read, if there was too much to keep."""
        self._read_at_once += 1
        try:
            # A channel gives others their turn after every event, and a reader of bursts would fall behind for that alone.
            if self._read_at_once < READ_AT_ONCE:
                return self._events.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        self._read_at_once = 0
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            if self._is_behind:
                raise Overloaded(f"a reader of events fell {limits.EVENTS_BEHIND_MAX} behind") from None
            raise StopAsyncIteration from None

    def __enter__(self) -> Subscription[EventT]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, event: EventT) -> None:
        """Called by the feed."""
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._is_behind = True
            self.close()

    def close(self) -> None:
        """No more events; idempotent."""
        self._feed.forget(self)
        self._send.close()


class Feed(Generic[EventT]):
    """Where events are told."""

    def __init__(self) -> None:
        self._subscriptions: dict[Subscription[EventT], None] = {}  # in order, so that runs can be repeated

    def subscribe(self) -> Subscription[EventT]:
        """Hears all that is told from this call on."""
        subscription = Subscription(self)
        self._subscriptions[subscription] = None
        return subscription

    def tell(self, event: EventT) -> None:
        """Never waits."""
        for subscription in tuple(self._subscriptions):
            subscription.tell(event)

    def close(self) -> None:
        """Every reader's iteration ends after what it has not read yet."""
        for subscription in tuple(self._subscriptions):
            subscription.close()

    def forget(self, subscription: Subscription[EventT]) -> None:
        """Called by a subscription that closes."""
        self._subscriptions.pop(subscription, None)
