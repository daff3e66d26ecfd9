"""Who monitors whom: every node is monitored by its successors on a ring of hashed ids.

The cost per node is the same however large the mesh is, monitors can't be chosen by whoever picks a peer id last, and
everybody who knows the same members knows the same monitors.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from functools import lru_cache

from protocols import limits
from protocols.ids import PeerId


class Ring:
    """Nodes by position."""

    def __init__(self, peers: Iterable[PeerId]) -> None:
        self._places = sorted((_position(peer), peer) for peer in set(peers))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, peer: PeerId) -> bool:
        place = (_position(peer), peer)
        index = bisect_left(self._places, place)
        return index < len(self._places) and self._places[index] == place

    def add(self, peer: PeerId) -> None:
        """Idempotent, as `discard` is. Sorting all anew for each of 1,000 members that are met takes half a second."""
        if peer not in self:
            insort(self._places, (_position(peer), peer))

    def discard(self, peer: PeerId) -> None:
        place = (_position(peer), peer)
        index = bisect_left(self._places, place)
        if self._places[index : index + 1] == [place]:
            del self._places[index]

    def successors(self, peer: PeerId, count: int) -> list[PeerId]:
        """The `count` nodes behind `peer`, itself left out; it need not be on the ring."""
        start = bisect_right(self._places, (_position(peer), peer))
        return self._from(start, 1, count, without=peer)

    def predecessors(self, peer: PeerId, count: int) -> list[PeerId]:
        """The nodes of whose first `count` successors `peer` is one."""
        start = bisect_left(self._places, (_position(peer), peer)) - 1
        return self._from(start, -1, count, without=peer)

    def _from(self, start: int, step: int, count: int, without: PeerId) -> list[PeerId]:
        length = len(self._places)
        steps = range(min(count + 1, length))
        found = [self._places[(start + step * index) % length][1] for index in steps]
        return [peer for peer in found if peer != without][:count]


@lru_cache(maxsize=limits.MEMBERS_MAX)
def _position(peer: PeerId) -> bytes:
    return hashlib.sha256(peer.encode()).digest()
