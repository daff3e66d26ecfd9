"""How long the worker lately went without an advance, in turns of each kind: what whoever waits has to bear.

A layer is the smallest advance that shows, and after the last one the head draws. Only the last turn of a kind counts, so
that a single hiccup of the machine is soon forgotten. Pure: the time is handed in.
"""

from __future__ import annotations

from protocols.seams import ShardId

TurnKind = tuple[ShardId, bool]
"""A shard, and whether the turn was a chunk of a long step."""


class Gaps:
    """In seconds."""

    def __init__(self) -> None:
        self._longest_s: dict[TurnKind, float] = {}
        self._running: TurnKind | None = None
        self._advanced_at = 0.0

    @property
    def longest_s(self) -> float:
        return max(self._longest_s.values(), default=0.0)

    def begin(self, kind: TurnKind, now: float) -> None:
        self._running, self._advanced_at = kind, now
        self._longest_s[kind] = 0.0

    def advance(self, now: float) -> None:
        """A layer of the turn, or all of it, is done."""
        assert self._running is not None
        gap_s, self._advanced_at = now - self._advanced_at, now
        if gap_s > self._longest_s[self._running]:
            self._longest_s[self._running] = gap_s

    def forget(self, shard: ShardId) -> None:
        for is_chunk in (False, True):
            self._longest_s.pop((shard, is_chunk), None)
