"""Which of the waiting steps are computed in the next turn of the worker. Pure: no torch, no clock, no I/O.

    turn    short steps of one shard together, one per cache, or one chunk (at most 128 rows) of a long one
    order   the steps of a cache one after the other; peers take turns, and the sessions of a peer among themselves

A chunk goes only when every short step that waited behind the chunk before it has had its turn: so a decode waits for one
chunk at most, and chunks wait for a bounded number of short turns. A turn is made of what waits when the worker is free.

Sessions that came together come back together, but not at the same instant: `lacks_company` tells that fewer steps wait than
the largest of the last turns had. Whoever has the clock then waits a little for the others, because a turn of one row costs
about what a turn of many costs. A lone session never waits.

How many sessions of a ring go together: if a stage took all that wait, the sessions of a ring of S stages would soon travel
in one bunch, and all stages but one would be idle. With N sessions over S stages each, a turn takes

    max(free, ceil(N / S))    at most `best` rows

so that there is a group for every stage; but groups smaller than what costs no more than a single row
(inference/engine/batching/cost_curve.py) would gain nobody anything. N / S is the sum of 1 / S over the caches of the shard.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from inference.engine.batching.cost_curve import BatchRows
from inference.engine.batching.rotation import Rotation
from inference.engine.batching.waiting import StepKey, WaitingStep
from protocols import limits
from protocols.errors import Overloaded, Unavailable
from protocols.ids import PeerId
from protocols.seams import CacheSpec, ShardId

TURNS_REMEMBERED: Final = (
    4  # a group that a straggler has split finds together again, and one that has ended is soon forgotten
)


@dataclass(slots=True)
class _Shard:
    """One that is held: `lengths` counts its caches by how many stages their ring has, `together_max` follows from them."""

    rows: BatchRows
    short: Rotation[StepKey] = field(default_factory=Rotation)
    turns: deque[int] = field(default_factory=lambda: deque(maxlen=TURNS_REMEMBERED))  # the steps of each
    lengths: Counter[int] = field(default_factory=Counter)
    together_max: int = 1

    def count(self, stages: int, caches: int) -> None:
        """So many more caches of rings of that length, or fewer."""
        self.lengths[stages] += caches
        share = sum(count / stages for stages, count in self.lengths.items())
        self.together_max = min(self.rows.best, max(self.rows.free, math.ceil(share - 1e-9)))


@dataclass(slots=True)
class _Cache:
    peer: PeerId
    stages: int
    steps: deque[WaitingStep] = field(default_factory=deque)


class StepQueue:
    """Steps of open caches. `next` is followed by `done` before anything else is asked."""

    def __init__(self) -> None:
        self._shards: dict[ShardId, _Shard] = {}
        self._caches: dict[StepKey, _Cache] = {}
        self._waiting: set[StepKey] = set()
        self._short_shards: dict[ShardId, None] = {}  # those where short steps wait, in turns
        self._long: Rotation[StepKey] = Rotation()
        self._owed: set[StepKey] = set()  # short steps that go before the next chunk
        self._was_chunk = False
        self._rows_max = math.inf

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    @property
    def lacks_company(self) -> bool:
        """Whether only short steps of one shard wait, and fewer than went together lately."""
        if self._long or len(self._short_shards) != 1:
            return False
        shard = self._shards[next(iter(self._short_shards))]
        wanted = min(shard.together_max, self._rows_max, max(shard.turns, default=0))
        return len(shard.short.waiting()) < wanted

    @property
    def caches(self) -> tuple[StepKey, ...]:
        """Those that are open."""
        return tuple(self._caches)

    def limit(self, rows: int | None) -> None:
        """At most that many rows in a turn of short steps, or one step of more; None: as many as are worth it."""
        self._rows_max = math.inf if rows is None else rows

    # What there is ---------------------------------------------------------------------------------------------------

    def hold(self, shard: ShardId, rows: BatchRows) -> None:
        self._shards[shard] = _Shard(rows)

    def open(self, key: StepKey, spec: CacheSpec) -> None:
        """A cache of a shard that is held; it is not open yet."""
        self._caches[key] = _Cache(spec.peer, spec.stages)
        self._shards[key[0]].count(spec.stages, 1)

    def is_open(self, key: StepKey) -> bool:
        return key in self._caches

    def close(self, key: StepKey) -> list[WaitingStep]:
        """The steps that will not be computed. Idempotent."""
        cache = self._caches.pop(key, None)
        if cache is None:
            return []
        shard = self._shards[key[0]]
        shard.count(cache.stages, -1)
        shard.short.discard(cache.peer, key)
        if not shard.short:
            self._short_shards.pop(key[0], None)
        self._long.discard(cache.peer, key)
        self._owed.discard(key)
        self._waiting.discard(key)
        return list(cache.steps)

    def release(self, shard: ShardId) -> list[WaitingStep]:
        """As `close` for all caches of the shard, which is held no more. Idempotent."""
        keys = [key for key in self._caches if key[0] == shard]
        steps = [step for key in keys for step in self.close(key)]
        self._shards.pop(shard, None)
        return steps

    # Turns -----------------------------------------------------------------------------------------------------------

    def add(self, step: WaitingStep) -> None:
        """Raises `Unavailable` if its cache is not open, and `Overloaded` if too much waits already."""
        cache = self._caches.get(step.key)
        if cache is None:
            raise Unavailable("the worker has no cache for that session and stage")
        if len(cache.steps) >= limits.CREDITS_PER_SESSION:
            raise Overloaded(f"{limits.CREDITS_PER_SESSION} steps of that session wait already")
        if not cache.steps and len(self._waiting) >= limits.SESSIONS_MAX:
            raise Overloaded(f"steps of {limits.SESSIONS_MAX} sessions wait already")
        cache.steps.append(step)
        if len(cache.steps) == 1:
            self._line_up(step.key, cache)

    def next(self) -> list[WaitingStep]:
        """The steps of a turn, all of one shard and with no two of a cache; empty if none waits."""
        if self._was_chunk:
            self._owed.update(*(self._shards[shard].short.waiting() for shard in self._short_shards))
        self._was_chunk = bool(self._long) and not self._owed
        if self._was_chunk:
            return [self._caches[self._long.take()].steps[0]]
        return self._short_turn() if self._short_shards else []

    def done(self, steps: Iterable[WaitingStep]) -> None:
        """Their turn is over; those that are not over themselves wait for another."""
        for step in steps:
            cache = self._caches[step.key]
            if step.is_over:
                cache.steps.popleft()
            if cache.steps:
                self._line_up(step.key, cache)
            else:
                self._waiting.discard(step.key)

    def _short_turn(self) -> list[WaitingStep]:
        shard_id = next(iter(self._short_shards))
        del self._short_shards[shard_id]
        shard, rows = self._shards[shard_id], 0
        steps: list[WaitingStep] = []
        while shard.short and len(steps) < shard.together_max:
            step = self._caches[shard.short.first()].steps[0]
            if steps and rows + step.rows > min(shard.rows.best, self._rows_max):
                break
            steps.append(step)
            rows += step.rows
            self._owed.discard(shard.short.take())
        shard.turns.append(len(steps))
        if shard.short:
            self._short_shards[shard_id] = None  # behind all other shards
        return steps

    def _line_up(self, key: StepKey, cache: _Cache) -> None:
        self._waiting.add(key)
        if cache.steps[0].is_short:
            self._shards[key[0]].short.add(cache.peer, key)
            self._short_shards.setdefault(key[0])
        else:
            self._long.add(cache.peer, key)
