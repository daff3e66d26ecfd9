"""What `weft offer` tells while it waits for the mesh."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from inference.placement.planning.plan import Plan
from node import api
from node.config import ModelConfig
from node.offering import EVENTS_WAITING_MAX, Offering
from protocols.ids import PeerId

OWN = PeerId("own")


class Library:
    async def add(self, path: str, on_progress: Any) -> Any:
        for done in range(2 * EVENTS_WAITING_MAX):
            on_progress(done, 2 * EVENTS_WAITING_MAX)
        return SimpleNamespace(path=path, digest="ab" * 32, config=SimpleNamespace(layers=4))


class Placement:
    async def offer(self, model: Any, on_event: Any, on: Any, goal: Any) -> Plan:
        await trio.sleep(1)
        return Plan((), 1.0)


async def test_a_reader_that_sleeps_misses_progress_and_nothing_else(autojump_clock: MockClock) -> None:
    members = SimpleNamespace(members=tuple)
    offering = Offering(ModelConfig(), Library(), Placement(), members, OWN, str)  # type: ignore[arg-type]
    async with offering.offer("/a/model", None, (), api.Goal()) as events:
        await trio.sleep(10)
        told = [event async for event in events]
    assert len(told) == EVENTS_WAITING_MAX + 1
    assert isinstance(told[-1], api.Offered)
