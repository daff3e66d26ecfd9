"""What the torch process promises beyond what every worker does: shared turns, quotas, and what bad input harms."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
import trio
from msgspec import structs

from protocols.errors import Malformed, Overloaded, Unavailable
from protocols.ids import PeerId, SessionId
from protocols.seams import CacheSpec, StepResult
from protocols.tensor import Frame
from tests.contracts.worker_contract import OTHER, PROMPT, ROWS_MAX, SESSION, Rig, WorkerContract, fill

MANY = tuple(SessionId(f"{index:032x}") for index in range(1, 9))
CONTEXT = 128


class TorchWorkerContract(WorkerContract):
    async def test_many_sessions_at_once_say_what_each_says_alone(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        alone = await rig.generate(8)
        said: dict[SessionId, list[int]] = {}

        async def run(session: SessionId) -> None:
            await rig.open_all(session)
            said[session] = await rig.generate(8, session)

        async with trio.open_nursery() as nursery:
            for session in MANY:
                nursery.start_soon(run, session)
        assert said == dict.fromkeys(MANY, alone)

    async def test_steps_that_wait_share_a_turn(self, rig: Rig) -> None:
        await rig.load_all()
        shard = rig.specs[0].shard
        for session in MANY:
            await rig.worker.open_cache(shard, session, 0, CacheSpec(1, 8, None))
        started = [rig.worker.start_step(shard, rig.first_frame((1,), 0, session)) for session in MANY]
        results = [await each.result() for each in started]
        assert max(result.step_rows for result in results) > 1
        assert len({bytes(result.body) for result in results}) == 1

    async def test_a_prompt_in_one_frame_is_what_it_is_in_several(self, rig: Rig) -> None:
        await rig.load_all()
        shard, rows = rig.specs[0].shard, tuple(range(CONTEXT))
        results: list[StepResult] = []
        for session, cuts in ((SESSION, (0, 60, CONTEXT)), (OTHER, (0, CONTEXT))):
            # Rows behind the prompt attend one by one, so that any cut is right.
            await rig.worker.open_cache(shard, session, 0, CacheSpec(1, CONTEXT, None))
            for start, end in itertools.pairwise(cuts):
                results.append(await rig.worker.step(shard, rig.first_frame(rows[start:end], start, session)))
        assert bytes(results[0].body) + bytes(results[1].body) == bytes(results[2].body)

    async def test_rows_that_are_not_finite_harm_their_own_session_alone(self, rig: Rig) -> None:
        await rig.load_all()
        shard, numbers = rig.specs[1].shard, [0.5] * rig.width
        outcomes: dict[SessionId, bytes | str] = {}

        def frame(session: SessionId, first: float) -> Frame:
            header = structs.replace(rig.first_frame((1,), 0, session).header, stage=1, width=rig.width)
            return Frame(header, (1,), struct.pack(f"<{rig.width}f", first, *numbers[1:]))

        async def run(session: SessionId, first: float) -> None:
            try:
                outcomes[session] = bytes((await rig.worker.step(shard, frame(session, first))).body)
            except Malformed as error:
                outcomes[session] = str(error)

        for session in MANY:
            await rig.worker.open_cache(shard, session, 1, CacheSpec(1, 8, None))
        await run(MANY[0], 0.5)
        alone = outcomes[MANY[0]]
        bad = {MANY[2]: math.nan, MANY[5]: math.inf}
        async with trio.open_nursery() as nursery:
            for session in MANY:
                nursery.start_soon(run, session, bad.get(session, 0.5))
        for session in MANY:
            if session in bad:
                assert "not finite" in str(outcomes[session])
            else:
                assert outcomes[session] == alone
        await run(MANY[2], 0.5)
        assert outcomes[MANY[2]] == alone

    async def test_a_sequence_past_the_context_is_malformed_and_nobody_else_notices(self, rig: Rig) -> None:
        await rig.load_all()
        shard = rig.specs[0].shard
        free_bytes = rig.worker.free_bytes()
        with pytest.raises(Malformed, match="context of 128"):
            await rig.worker.open_cache(shard, SESSION, 0, CacheSpec(1, CONTEXT + 1, None))
        assert rig.worker.free_bytes() == free_bytes
        await rig.worker.open_cache(shard, SESSION, 0, CacheSpec(1, CONTEXT, None))
        await rig.worker.open_cache(shard, OTHER, 0, CacheSpec(1, CONTEXT, None))
        await rig.worker.step(shard, rig.first_frame((1,) * (CONTEXT - 1), 0))
        past = rig.worker.start_step(shard, rig.first_frame((1, 1), CONTEXT - 1))
        beside = rig.worker.start_step(shard, rig.first_frame((1,), 0, OTHER))
        with pytest.raises(Malformed):
            await past.result()
        assert len((await beside.result()).body) == rig.width * rig.dtype.item_bytes
        await rig.worker.step(shard, rig.first_frame((1,), CONTEXT - 1))

    async def test_steps_of_a_session_that_is_closed_meanwhile_are_dropped(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        said = await rig.generate(4)
        shard = rig.specs[0].shard
        await rig.open_all()
        await rig.open_all(OTHER)
        doomed = [rig.worker.start_step(shard, rig.first_frame(PROMPT, 0, OTHER)) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.close_all, OTHER)
            assert await rig.generate(4) == said
        endings = []
        for stepping in doomed:
            try:
                await stepping.result()
            except Unavailable as error:
                endings.append(str(error))
            else:
                endings.append("computed")
        # Those that had their turn before the close was read are computed, all behind them are not.
        assert endings == sorted(endings)
        with pytest.raises(Unavailable):
            await rig.worker.step(shard, rig.first_frame(PROMPT, 0, OTHER))

    async def test_one_peer_or_one_session_cannot_take_the_memory_of_all(self, rig: Rig) -> None:
        await rig.load_all()
        shard, greedy = rig.specs[0].shard, PeerId("greedy")
        free_bytes = rig.worker.free_bytes()
        opened = await fill(rig, CacheSpec(8, ROWS_MAX, None, greedy))
        left_bytes = rig.worker.free_bytes()
        assert left_bytes > 0.2 * free_bytes
        with pytest.raises(Overloaded, match="left for the sessions of one peer"):
            await rig.worker.open_cache(shard, MANY[0], 7, CacheSpec(8, ROWS_MAX, None, greedy))
        others = [(SESSION, stage) for stage in range(4)]
        for session, stage in others:
            await rig.worker.open_cache(shard, session, stage, CacheSpec(8, ROWS_MAX, None, PeerId("modest")))
        for index in range(opened):
            await rig.worker.close_cache(shard, SessionId(f"{index:032x}"), 0)
        for session, stage in others:
            await rig.worker.close_cache(shard, session, stage)
        assert rig.worker.free_bytes() == free_bytes
        with pytest.raises(Overloaded, match="left for one session"):
            for stage in range(1000):
                await rig.worker.open_cache(shard, SESSION, stage, CacheSpec(8, CONTEXT, None, greedy))
        assert rig.worker.free_bytes() > 0.4 * free_bytes
