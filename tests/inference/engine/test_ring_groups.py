"""Sessions of a ring: in one bunch where every stage takes all that wait, in a group for each stage with the cap.

A small simulation of a ring whose stages use the queue of the product; a turn of r rows takes `fixed` + `per_row` r.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest

from inference.engine.batching.batch import StepQueue
from inference.engine.batching.cost_curve import BatchRows
from inference.engine.batching.waiting import WaitingStep
from protocols.ids import ModelDigest, SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId
from protocols.tensor import DType, Frame, Header, Kind, Numerics

SHARD = ShardId(ModelDigest("ab" * 32), LayerRange(0, 1))
SPAN = 400.0
HOP = 0.01


@dataclass
class Ring:
    """`told`: how many stages the queues are told that there are."""

    stages: int
    sessions: int
    told: int
    fixed: float
    per_row: float
    free: int = 1
    tokens: int = 0
    busy: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def run(self) -> Ring:
        queues = [StepQueue() for _ in range(self.stages)]
        is_free = [True] * self.stages
        for queue in queues:
            queue.hold(SHARD, BatchRows(32, self.free))
            for session in range(self.sessions):
                queue.open((SHARD, SessionId(str(session)), 0), CacheSpec(1, 9, None, stages=self.told))
        events: list[tuple[float, int, int, list[WaitingStep], bool]] = []
        for session in range(self.sessions):
            heapq.heappush(events, (0.0, session, 0, [_decode(session)], True))
        count = self.sessions
        while events[0][0] < SPAN:
            now, _, stage, steps, comes = heapq.heappop(events)
            if comes:
                queues[stage].add(steps[0])
            else:
                for step in steps:
                    step.add(b"")
                queues[stage].done(steps)
                is_free[stage] = True
                behind = (stage + 1) % self.stages
                self.tokens += len(steps) if behind == 0 else 0
                for step in steps:
                    count += 1
                    heapq.heappush(events, (now + HOP, count, behind, [_decode(int(step.key[1]))], True))
            if is_free[stage] and not (events and events[0][0] == now) and (turn := queues[stage].next()):
                is_free[stage] = False
                took = self.fixed + self.per_row * len(turn)
                self.busy += took
                self.sizes.append(len(turn))
                count += 1
                heapq.heappush(events, (now + took, count, stage, turn, False))
        return self

    @property
    def busy_share(self) -> float:
        return self.busy / SPAN / self.stages


def _decode(session: int) -> WaitingStep:
    key = (SHARD, SessionId(str(session)), 0)
    return WaitingStep(
        key, 0, Frame(Header(Kind.DECODE, key[1], 0, 0, 0, 1, 0, 0, Numerics.EXACT, DType.F32), (1,), b"")
    )


@pytest.mark.parametrize(("stages", "sessions"), [(2, 8), (3, 9), (4, 16), (4, 18)])
def test_without_the_cap_one_stage_works_at_a_time_and_with_it_all_do(stages: int, sessions: int) -> None:
    bunched = Ring(stages, sessions, told=1, fixed=0.2, per_row=0.2).run()
    grouped = Ring(stages, sessions, told=stages, fixed=0.2, per_row=0.2).run()
    assert bunched.busy_share < 1.2 / stages
    assert grouped.busy_share > 0.9
    assert grouped.tokens > 0.7 * stages * bunched.tokens
    assert max(grouped.sizes) == -(-sessions // stages)


def test_where_rows_are_free_small_groups_would_gain_nothing() -> None:
    one_bunch = Ring(2, 8, told=2, fixed=1.0, per_row=0.0, free=8).run()
    groups = Ring(2, 8, told=2, fixed=1.0, per_row=0.0, free=1).run()
    assert groups.tokens == pytest.approx(one_bunch.tokens, rel=0.05)
    assert groups.busy > 1.9 * one_bunch.busy  # the same tokens for twice the work
