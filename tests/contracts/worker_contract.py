"""What every `ShardWorker` promises; run on the virtual worker and on the torch process.

A test class derives from `WorkerContract` and supplies the fixture `rig`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing
from msgspec import structs

from protocols.errors import Malformed, Overloaded, Unavailable, UserError, WorkerDied
from protocols.ids import SessionId
from protocols.limits import PREFILL_CHUNK_ROWS as CHUNK
from protocols.placement import LayerShape
from protocols.seams import CacheSpec, ShardSpec, ShardWorker
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics

SESSION = SessionId("5e" * 16)
OTHER = SessionId("07" * 16)
PROMPT = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)
ROWS_MAX = 64
SESSIONS = 1000
SHAPE = LayerShape(hidden=32, ffn=64, heads=4, kv_heads=2, head_dim=8, dtype="f32")


@dataclass
class Rig:
    """`specs` is a chain of shards that covers a model; `crash` ends the worker process at once."""

    worker: ShardWorker
    specs: tuple[ShardSpec, ...]
    width: int
    crash: Callable[[], None]
    dtype: DType = DType.F32
    numerics: Numerics = Numerics.EXACT

    async def load_all(self) -> None:
        for spec in self.specs:
            await self.worker.load(spec, lambda done, total: None)

    async def open_all(self, session: SessionId = SESSION, sampling: Sampling | None = None) -> None:
        for stage, spec in enumerate(self.specs):
            is_last = stage == len(self.specs) - 1
            cache = CacheSpec(len(PROMPT), ROWS_MAX, (sampling or Sampling()) if is_last else None)
            await self.worker.open_cache(spec.shard, session, stage, cache)

    async def close_all(self, session: SessionId = SESSION) -> None:
        for stage, spec in enumerate(self.specs):
            await self.worker.close_cache(spec.shard, session, stage)

    def first_frame(self, tokens: tuple[int, ...], position: int, session: SessionId = SESSION) -> Frame:
        kind = Kind.DECODE if len(tokens) == 1 else Kind.PREFILL
        header = Header(
            kind, session, 0, 0, position, len(tokens), 0, position, self.numerics, self.dtype, sample=True
        )
        return Frame(header, tokens, b"")

    async def through(
        self, tokens: tuple[int, ...], position: int, session: SessionId = SESSION
    ) -> tuple[int | None, list[bytes]]:
        """The sampled token, and the body that entered each stage after the first."""
        frame, bodies = self.first_frame(tokens, position, session), []
        result = await self.worker.step(self.specs[0].shard, frame)
        for stage, spec in enumerate(self.specs[1:], 1):
            bodies.append(bytes(result.body))
            header = structs.replace(frame.header, stage=stage, width=self.width)
            result = await self.worker.step(spec.shard, Frame(header, tokens, bodies[-1]))
        return result.token, bodies

    async def generate(self, count: int, session: SessionId = SESSION) -> list[int]:
        tokens, position = PROMPT, 0
        out: list[int] = []
        while len(out) < count:
            token, _ = await self.through(tokens, position, session)
            assert token is not None
            position, tokens = position + len(tokens), (token,)
            out.append(token)
        return out


class WorkerContract:
    async def test_progress_of_a_load_ends_at_its_total(self, rig: Rig) -> None:
        seen: list[tuple[int, int]] = []
        loaded = await rig.worker.load(rig.specs[0], lambda done, total: seen.append((done, total)))
        assert loaded.resident_bytes > 0
        assert loaded.numerics_class
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0

    async def test_free_memory_shrinks_by_shards_and_caches_and_comes_back(self, rig: Rig) -> None:
        at_first = rig.worker.free_bytes()
        loaded = await rig.worker.load(rig.specs[0], lambda done, total: None)
        with_shard = rig.worker.free_bytes()
        assert with_shard == at_first - loaded.resident_bytes
        shard = rig.specs[0].shard
        await rig.worker.open_cache(shard, SESSION, 0, CacheSpec(8, ROWS_MAX, None))
        assert rig.worker.free_bytes() < with_shard
        await rig.worker.close_cache(shard, SESSION, 0)
        assert rig.worker.free_bytes() == with_shard
        await rig.worker.unload(shard)
        await rig.worker.unload(shard)
        assert rig.worker.free_bytes() == at_first

    async def test_equal_prompts_give_equal_tokens(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        await rig.open_all(OTHER)
        first = await rig.generate(12)
        assert first == await rig.generate(12, OTHER)

    async def test_sessions_in_turns_do_not_see_each_other(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        alone = await rig.generate(6)
        await rig.open_all()
        await rig.open_all(OTHER)
        together: dict[SessionId, list[int]] = {}

        async def run(session: SessionId) -> None:
            together[session] = await rig.generate(6, session)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, SESSION)
            nursery.start_soon(run, OTHER)
        assert together == {SESSION: alone, OTHER: alone}

    async def test_a_rebuilt_range_goes_on_with_the_same_bits(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        said = await rig.generate(6)
        rows = (*PROMPT, *said[:-1])
        lone = rig.first_frame((said[-1],), len(rows))
        expected = await rig.worker.step(rig.specs[0].shard, lone)
        await rig.open_all()
        header = structs.replace(rig.first_frame(rows, 0).header, kind=Kind.REPLAY, sample=False)
        await rig.worker.step(rig.specs[0].shard, Frame(header, rows, b""))
        rebuilt = await rig.worker.step(rig.specs[0].shard, lone)
        assert bytes(rebuilt.body) == bytes(expected.body)

    async def test_started_steps_give_what_steps_give_one_after_the_other(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        frames = [rig.first_frame(PROMPT, 0), *(rig.first_frame((7,), len(PROMPT) + at) for at in range(3))]
        shard = rig.specs[0].shard
        expected = [bytes((await rig.worker.step(shard, frame)).body) for frame in frames]
        await rig.open_all()
        given_up, *started = [rig.worker.start_step(shard, frame) for frame in (frames[0], *frames)]
        del given_up
        assert [bytes((await each.result()).body) for each in started] == expected

    async def test_a_truncated_cache_goes_on_as_if_the_cut_rows_had_never_been(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        said = await rig.generate(5)
        position = len(PROMPT) + 1
        token, _ = await rig.through((said[1],), position)
        assert token == said[2]

    async def test_a_changed_row_in_the_prompt_changes_what_enters_the_last_stage(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        await rig.open_all(OTHER)
        _, one = await rig.through(PROMPT, 0)
        swapped = (PROMPT[1], PROMPT[0], *PROMPT[2:])
        _, two = await rig.through(swapped, 0, OTHER)
        row_bytes = rig.width * rig.dtype.item_bytes
        assert one[-1][-row_bytes:] != two[-1][-row_bytes:]

    async def test_sampling_is_keyed_by_seed_and_position(self, rig: Rig) -> None:
        await rig.load_all()
        drawn = []
        for seed in (7, 7, 8):
            await rig.open_all(sampling=Sampling(temperature=1.0, seed=seed))
            drawn.append(await rig.generate(8))
        assert drawn[0] == drawn[1] != drawn[2]

    async def test_work_rises_by_the_layers_of_the_range(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        assert rig.worker.work([(SESSION, 0)]) == 0
        await rig.through(PROMPT, 0)
        once = rig.specs[0].shard.range.layers
        assert rig.worker.work([(SESSION, 0)]) == once
        await rig.through((1,), len(PROMPT))
        assert rig.worker.work([(SESSION, 0)]) == 2 * once
        assert rig.worker.work([(OTHER, 0)]) == 0
        both = once + rig.specs[1].shard.range.layers
        assert rig.worker.work([(SESSION, 0), (OTHER, 0), (SESSION, 1)]) == 2 * both

    async def test_rows_that_do_not_follow_on_are_malformed(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        await rig.through(PROMPT, 0)
        for frame in (
            rig.first_frame((1,), len(PROMPT) + 1),
            rig.first_frame((1,) * ROWS_MAX, len(PROMPT)),
        ):
            with pytest.raises(Malformed):
                await rig.worker.step(rig.specs[0].shard, frame)
        token, _ = await rig.through((1,), len(PROMPT))
        assert token is not None

    async def test_rows_of_another_width_are_malformed(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        frame = rig.first_frame((1,), 0)
        wide = structs.replace(frame.header, stage=1, width=rig.width + 1)
        body = bytes(wide.body_bytes)
        with pytest.raises(Malformed):
            await rig.worker.step(rig.specs[1].shard, Frame(wide, (1,), body))

    async def test_a_closed_cache_and_an_absent_shard_are_unavailable(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        await rig.close_all()
        await rig.close_all()
        with pytest.raises(Unavailable):
            await rig.through(PROMPT, 0)
        absent = structs.replace(rig.specs[0].shard, version=9)
        with pytest.raises(Unavailable):
            await rig.worker.open_cache(absent, SESSION, 0, CacheSpec(8, ROWS_MAX, None))
        await rig.worker.close_cache(absent, SESSION, 0)
        assert rig.worker.work([(SESSION, 0)]) == 0

    async def test_a_cache_past_the_memory_is_refused_and_harms_nothing(self, rig: Rig) -> None:
        await rig.load_all()
        shard, cache = rig.specs[0].shard, CacheSpec(8, ROWS_MAX, None)
        opened = await fill(rig, cache)
        assert 0 < opened < SESSIONS
        for session in range(opened):
            await rig.worker.close_cache(shard, SessionId(f"{session:032x}"), 0)
        await rig.open_all()
        assert len(await rig.generate(2)) == 2

    async def test_a_config_that_cannot_be_served_fails_the_load_alone(self, rig: Rig) -> None:
        with pytest.raises(UserError):
            await rig.worker.load(replace(rig.specs[0], config=b"{"), lambda done, total: None)
        await rig.load_all()

    async def test_a_crash_ends_pending_and_later_calls_until_a_new_process_is_up(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        await rig.generate(2)
        free_bytes = rig.worker.free_bytes()
        outcomes: list[str] = []

        async def pend() -> None:
            try:
                while True:
                    await rig.generate(3)
            except WorkerDied:
                outcomes.append("died")

        async def watch() -> None:
            await rig.worker.wait_died()
            outcomes.append("seen")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pend)
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            rig.crash()
        assert sorted(outcomes) == ["died", "seen"]
        assert rig.worker.free_bytes() > free_bytes
        with pytest.raises(Unavailable):
            rig.worker.start_step(rig.specs[0].shard, rig.first_frame(PROMPT, 0))
        await until_up(rig)
        with pytest.raises(Unavailable):
            await rig.through(PROMPT, 0)
        await rig.load_all()
        await rig.open_all()
        assert len(await rig.generate(2)) == 2

    async def test_a_cancelled_step_leaves_the_worker_usable(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        said = await rig.generate(4)
        await rig.open_all()
        with trio.move_on_after(0.0001):
            await rig.through(PROMPT, 0)
        await rig.open_all()
        assert await rig.generate(4) == said

    async def test_caches_are_listed_and_what_they_take_adds_up(self, rig: Rig) -> None:
        await rig.load_all()
        assert await rig.worker.caches() == ()
        await rig.open_all()
        caches = await rig.worker.caches()
        assert set(caches) == {(spec.shard, SESSION, stage) for stage, spec in enumerate(rig.specs)}
        memory = rig.worker.memory()
        assert (memory.used_bytes, set(memory.shards)) == (0, {spec.shard for spec in rig.specs})
        await rig.through(PROMPT, 0)
        memory = rig.worker.memory()
        for cache in memory.caches:
            assert cache.used_bytes == cache.reserved_bytes * len(PROMPT) // ROWS_MAX
        taken = sum(memory.shards.values()) + memory.reserved_bytes
        assert rig.worker.free_bytes() == memory.budget_bytes - taken
        for shard, session, stage in caches:
            await rig.worker.close_cache(shard, session, stage)
        assert await rig.worker.caches() == rig.worker.memory().caches == ()

    async def test_what_is_kept_of_a_prompt_counts_apart_until_it_is_dropped(self, rig: Rig) -> None:
        await rig.load_all()
        shard, free_bytes = rig.specs[0].shard, rig.worker.free_bytes()
        for _ in range(2):
            cache = CacheSpec(CHUNK, CHUNK, None, prefix=(b"all of it",))
            assert (
                await rig.worker.open_cache(shard, SESSION, 0, cache) == 0
            )  # the last row is to be computed
            await rig.worker.step(shard, rig.first_frame((1,) * CHUNK, 0))
            await rig.worker.close_cache(shard, SESSION, 0)
            kept_bytes = rig.worker.memory().prefix_bytes
            assert kept_bytes > 0
            assert (rig.worker.memory().reserved_bytes, rig.worker.free_bytes()) == (0, free_bytes)
            await rig.worker.drop_prefixes()
            assert rig.worker.memory().prefix_bytes == 0
        await rig.worker.open_cache(shard, SESSION, 0, cache)
        await rig.worker.step(shard, rig.first_frame((1,) * CHUNK, 0))
        await rig.worker.unload(shard)
        assert rig.worker.memory().prefix_bytes == 0

    async def test_a_limit_on_rows_changes_no_token(self, rig: Rig) -> None:
        await rig.load_all()
        await rig.open_all()
        said = await rig.generate(4)
        await rig.worker.limit_rows(1)
        await rig.open_all()
        assert await rig.generate(4) == said
        await rig.worker.limit_rows(None)

    async def test_a_layer_can_be_measured(self, rig: Rig) -> None:
        assert await rig.worker.measure_layer(SHAPE) > 0


async def fill(rig: Rig, cache: CacheSpec) -> int:
    """Opens caches until one is refused; how many there are."""
    for opened in range(SESSIONS):
        free_bytes = rig.worker.free_bytes()
        try:
            await rig.worker.open_cache(rig.specs[0].shard, SessionId(f"{opened:032x}"), 0, cache)
        except Overloaded:
            assert rig.worker.free_bytes() == free_bytes
            return opened
    return SESSIONS


async def until_up(rig: Rig) -> None:
    """Waits for the process that follows a crash."""
    with trio.fail_after(30):
        while True:
            try:
                await rig.worker.measure_layer(SHAPE)
            except WorkerDied:
                await trio.sleep(0.02)
            else:
                return
