"""Loads that sessions wait for: each is done once however many wait for it, and goes on when those have left.

    session opens a mapped range --> waits --> the load ends, well or not --> opens, or is refused with the reason

The rule of the file: a load belongs to the node, not to the session that asked for it first. One that was begun is worth
finishing, because the next session will need the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from protocols.errors import LocalFault, RemoteFault, Unavailable, UserError
from protocols.ids import ModelDigest
from protocols.placement import LayerRange

Key = tuple[ModelDigest, LayerRange]


class _Promotion:
    __slots__ = ("ended", "failure")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.failure = ""


class Promotions:
    """One after the other, as the worker does one thing at a time. `load` raises if the range can't be held."""

    def __init__(self, load: Callable[[Key], Awaitable[None]]) -> None:
        self._load = load
        self._waiting: deque[Key] = deque()
        self._under_way: dict[Key, _Promotion] = {}  # at most the ranges of this node, and one per session
        self._wake = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while self._waiting:
                await self._do(self._waiting.popleft())
            self._wake = trio.Event()
            await self._wake.wait()

    def is_under_way(self, key: Key) -> bool:
        return key in self._under_way

    async def wait_for(self, key: Key) -> None:
        """Returns when the range is loaded. Raises `Unavailable` with the reason if it could not be."""
        promotion = self._under_way.get(key)
        if promotion is None:
            promotion = self._under_way[key] = _Promotion()
            self._waiting.append(key)
            self._wake.set()
        await promotion.ended.wait()
        if promotion.failure:
            raise Unavailable(promotion.failure)

    async def _do(self, key: Key) -> None:
        promotion = self._under_way[key]
        try:
            await self._load(key)
        except (RemoteFault, Unavailable, UserError, LocalFault) as error:
            promotion.failure = f"layers {key[1]} could not be loaded: {error}"
        finally:
            del self._under_way[key]
            promotion.ended.set()
