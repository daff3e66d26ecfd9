"""What a node does about its memory, on virtual time: the worker is a virtual one, sessions and placement are stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from inference.engine.memory.pressure import CALM_S, PINCHED_ROWS, SHED_S, Level, high_mark_bytes
from node.machine import Footprint, Memory
from node.memory_view import MemoryView
from node.memory_watch import CARD_WORKER_BYTES, LOOK_S, ORPHANS_S, Measured, MemoryWatch
from protocols.ids import PeerId, SessionId, shortened
from protocols.limits import MIB
from protocols.seams import CacheKey, CacheSpec, ShardId, WorkerMemory
from protocols.session import Sampling
from simulations.machine.worker import VirtualWorker
from tests.contracts.worker_contract import OTHER, SESSION
from tests.simulations.machine.test_worker import make_rig
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

TOTAL = 16384 * MIB
MARK = high_mark_bytes(TOTAL)
PLENTY = Measured(Memory(8 * MARK, TOTAL), Footprint(200 * MIB, 160 * MIB))


class Worker(VirtualWorker):
    """Notes which limits it was given."""

    limits: list[int | None]
    device = "cpu"

    def memory(self) -> WorkerMemory:
        return replace(super().memory(), device=self.device)

    async def limit_rows(self, rows: int | None) -> None:
        self.limits.append(rows)
        await super().limit_rows(rows)


@dataclass
class Scene:
    """`sessions` and `shortage` are the server's; `spare` are the ranges that can be let go of."""

    worker: Worker
    server: Any
    watch: MemoryWatch
    measured: Measured = PLENTY
    spare: list[str] = field(default_factory=list)

    @property
    def view(self) -> MemoryView:
        own = PeerId("12D3")
        return MemoryView(own, self.worker, self.server, self.watch, lambda _: "anna", shortened)

    def has(self, available: int) -> None:
        self.measured = replace(PLENTY, machine=Memory(available, TOTAL))

    async def cache(self, session: SessionId, rows: int = 64) -> CacheKey:
        shard: ShardId = make_rig().specs[0].shard
        await self.worker.open_cache(shard, session, 0, CacheSpec(1, rows, Sampling()))
        return shard, session, 0

    def know(self, key: CacheKey) -> None:
        shard, session, stage = key
        self.server.sessions[session, stage] = SimpleNamespace(model=shard.model, range=shard.range)


@asynccontextmanager
async def watched() -> AsyncIterator[Scene]:
    worker = Worker()
    worker.limits = []
    for spec in make_rig().specs:
        await worker.load(spec, lambda _done, _total: None)
    server: Any = SimpleNamespace(sessions={}, shortage="")

    async def shed() -> Any:
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(range=scene.spare.pop()) if scene.spare else None

    placement: Any = SimpleNamespace(shed=shed)
    watch = MemoryWatch(worker, server, placement, lambda _pid: scene.measured)
    scene = Scene(worker, server, watch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        yield scene
        nursery.cancel_scope.cancel()


async def test_sessions_are_refused_while_memory_is_short_and_taken_again_when_it_is_back() -> None:
    async with watched() as scene:
        await trio.sleep(10 * LOOK_S)
        assert scene.server.shortage == ""
        scene.has(MARK - 1)
        await trio.sleep(1.5 * LOOK_S)
        assert scene.server.shortage.startswith("it is short of memory: 1,024 MiB of 16,384 MiB")
        assert scene.worker.limits == []
        scene.has(8 * MARK)
        await trio.sleep(CALM_S - LOOK_S)
        assert scene.server.shortage
        await trio.sleep(4 * LOOK_S)
        assert scene.server.shortage == ""


async def test_before_memory_runs_out_turns_are_small_and_standbys_go_until_there_is_none() -> None:
    async with watched() as scene:
        scene.spare = ["0-3", "4-7"]
        scene.has(MARK // 4)
        await trio.sleep(1.5 * LOOK_S)
        assert scene.worker.limits == [PINCHED_ROWS]
        assert scene.spare == ["0-3"]
        assert scene.view.now().does[2] == "it lets go of standbys, which stay on disk"
        await trio.sleep(3 * SHED_S)
        assert scene.spare == []
        told = scene.view.now()
        assert told.level == "critical"
        assert "withdraw a model" in told.does[2]
        scene.has(8 * MARK)
        await trio.sleep(2 * CALM_S + 5 * LOOK_S)
        assert scene.worker.limits[-1] is None
        assert scene.watch.pressure.level is Level.NORMAL


async def test_what_lies_on_a_card_is_not_let_go_of_for_the_machine() -> None:
    async with watched() as scene:
        scene.worker.device = "cuda"
        await scene.cache(SESSION)
        scene.spare = ["0-3"]
        scene.has(MARK // 4)
        await trio.sleep(3 * SHED_S)
        assert scene.spare == ["0-3"]
        assert set(scene.worker.limits) == {PINCHED_ROWS}
        assert scene.server.shortage
        told = scene.view.now()
        assert told.does == (
            "it opens no more sessions and takes no more layers",
            f"it computes at most {PINCHED_ROWS} rows in a turn",
        )
        assert told.worker.device == "cuda"
        assert told.worker.limit_bytes == CARD_WORKER_BYTES
        reading = scene.watch._reading()
        assert (reading.promised, reading.kept) == (0, 0)


async def test_what_sessions_were_promised_and_have_not_written_is_not_there_for_others() -> None:
    async with watched() as scene:
        await scene.cache(SESSION)
        promised = scene.worker.memory().reserved_bytes
        scene.has(MARK + promised)
        await trio.sleep(2 * LOOK_S)
        assert scene.server.shortage == ""
        scene.has(MARK + promised - 1)
        await trio.sleep(2 * LOOK_S)
        assert scene.server.shortage


async def test_a_worker_that_is_down_or_dies_ends_no_watch() -> None:
    async with watched() as scene:
        scene.has(0)
        scene.worker.crash()
        await trio.sleep(3 * ORPHANS_S)
        assert scene.worker.limits[-1] == PINCHED_ROWS, "the new process hears of it too"
        assert scene.server.shortage


async def test_a_cache_that_no_session_has_is_closed_and_one_in_use_is_not() -> None:
    async with watched() as scene:
        scene.know(await scene.cache(SESSION))
        await scene.cache(OTHER)
        assert [cache.known for cache in scene.view.now().caches] == [True, False]
        await trio.sleep(1.5 * ORPHANS_S)
        assert len(await scene.worker.caches()) == 2, "it may be just opening"
        await trio.sleep(ORPHANS_S)
        assert [key[1] for key in await scene.worker.caches()] == [SESSION]
        assert scene.watch.orphans_closed == 1
        del scene.server.sessions[SESSION, 0]
        await trio.sleep(3 * ORPHANS_S)
        assert scene.worker.kv_bytes == 0


async def test_a_session_that_has_another_range_now_has_left_its_cache_behind() -> None:
    async with watched() as scene:
        key = await scene.cache(SESSION)
        scene.know((make_rig().specs[1].shard, *key[1:]))
        await trio.sleep(3 * ORPHANS_S)
        assert scene.worker.kv_bytes == 0


async def test_the_view_adds_up() -> None:
    async with watched() as scene:
        scene.know(await scene.cache(SESSION, 32))
        scene.know(await scene.cache(OTHER, 64))
        told = scene.view.now()
        worker = told.worker
        assert worker.budget_bytes == worker.weights_bytes + worker.reserved_bytes + worker.free_bytes
        assert worker.reserved_bytes == sum(cache.reserved_bytes for cache in told.caches)
        assert worker.weights_bytes == sum(shard.weights_bytes for shard in told.shards)
        assert told.shards[0].caches == 2
        assert (told.level, told.does, told.machine.limited_by) == ("normal", (), "machine")


async def test_where_nothing_is_measured_nothing_is_watched() -> None:
    nobody: Any = None
    watch = MemoryWatch(VirtualWorker(), nobody, nobody, None)
    with trio.fail_after(1):
        await watch.run()
    assert watch.measured().machine.total_bytes == 0


@pytest.mark.parametrize("group", [False, True])
async def test_the_view_names_what_sets_the_limit(group: bool) -> None:
    async with watched() as scene:
        scene.measured = replace(PLENTY, machine=Memory(8 * MARK, TOTAL, is_group=group))
        assert scene.view.now().machine.limited_by == ("control group" if group else "machine")


async def test_when_memory_is_short_nothing_is_kept_of_prompts() -> None:
    async with watched() as scene:
        rig = make_rig()
        rig.worker = scene.worker
        scene.worker.memory_bytes = 1 << 30
        for session in (SESSION, OTHER):
            shard = rig.specs[0].shard
            await scene.worker.open_cache(shard, session, 0, CacheSpec(200, 200, None, prefix=(b"name",)))
            await scene.worker.step(shard, rig.first_frame((1,) * 128, 0, session))
            kept_bytes = scene.view.now().worker.prefix_bytes
            assert kept_bytes == scene.worker.memory().prefix_bytes > 0
            scene.has(MARK - 1)
            await trio.sleep(1.5 * LOOK_S)
            assert scene.view.now().worker.prefix_bytes == 0
            assert scene.view.now().does[-1] == "it keeps no prompts for later sessions"
