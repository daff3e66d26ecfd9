"""Who is next, where sessions of many peers wait: peers take turns, and so do the sessions of a peer among themselves.

A peer with a hundred sessions has as many turns as one with a single session. Pure.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from protocols.ids import PeerId

KeyT = TypeVar("KeyT")


class Rotation(Generic[KeyT]):
    """Keys that wait, each of one peer; whoever is new or has had a turn stands behind."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, dict[KeyT, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._peers)

    def waiting(self) -> list[KeyT]:
        """All that wait, in no order that means anything."""
        return [key for keys in self._peers.values() for key in keys]

    def add(self, peer: PeerId, key: KeyT) -> None:
        self._peers.setdefault(peer, {})[key] = None

    def first(self) -> KeyT:
        """Whose turn it is; there has to be somebody."""
        return next(iter(next(iter(self._peers.values()))))

    def take(self) -> KeyT:
        """As `first`, who then waits no more."""
        peer, keys = next(iter(self._peers.items()))
        key = next(iter(keys))
        del keys[key], self._peers[peer]
        if keys:
            self._peers[peer] = keys  # behind all other peers
        return key

    def discard(self, peer: PeerId, key: KeyT) -> None:
        keys = self._peers.get(peer)
        if keys is not None and key in keys:
            del keys[key]
            if not keys:
                del self._peers[peer]
