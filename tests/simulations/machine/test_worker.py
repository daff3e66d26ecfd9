"""The virtual worker keeps the contract, and its arithmetic betrays every mistake with rows."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from protocols import limits
from protocols.errors import Malformed, Overloaded, Unavailable, WorkerDied
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from simulations.machine.arithmetic import KV_ROW_BYTES, LAYER_BYTES, WIDTH, virtual_config
from simulations.machine.worker import VirtualWorker
from tests.contracts.worker_contract import OTHER, PROMPT, SESSION, SHAPE, Rig, WorkerContract
from tests.virtual_time import ON_VIRTUAL_TIME

pytestmark = ON_VIRTUAL_TIME

CUTS = ((0, 3), (3, 5), (5, 8))


def make_rig(dtype: DType = DType.F32, cuts: tuple[tuple[int, int], ...] = CUTS) -> Rig:
    worker = VirtualWorker(memory_bytes=cuts[-1][1] * LAYER_BYTES + 256 * 1024)
    specs = tuple(
        ShardSpec(
            ShardId(ModelDigest("ab" * 32), LayerRange(*cut)), virtual_config(cuts[-1][1]), (), "f32", "exact"
        )
        for cut in cuts
    )
    return Rig(worker, specs, WIDTH, worker.crash, dtype)


class TestVirtualWorker(WorkerContract):
    @pytest.fixture(params=[DType.F32, DType.BF16])
    def rig(self, request: pytest.FixtureRequest) -> Rig:
        return make_rig(request.param)


async def test_the_cut_of_the_layers_does_not_change_the_tokens() -> None:
    said = []
    for cuts in (CUTS, ((0, 8),), ((0, 1), (1, 8))):
        rig = make_rig(cuts=cuts)
        await rig.load_all()
        await rig.open_all()
        said.append(await rig.generate(20))
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 4, 3], [9, 1], [1, 9]])
async def test_the_cut_into_frames_does_not_change_the_token(sizes: list[int]) -> None:
    rows = tuple(range(100, 100 + sum(sizes)))

    async def drawn(frames: list[int]) -> int | None:
        rig = make_rig()
        await rig.load_all()
        await rig.open_all()
        position, token = 0, None
        for size in frames:
            token, _ = await rig.through(rows[position : position + size], position)
            position += size
        return token

    assert await drawn(sizes) == await drawn([sum(sizes)])


async def test_lost_doubled_and_reordered_rows_change_the_token() -> None:
    tokens = []
    variants = (
        PROMPT,
        PROMPT[:3] + PROMPT[4:],
        (*PROMPT[:4], *PROMPT[3:]),
        (PROMPT[1], PROMPT[0], *PROMPT[2:]),
    )
    for rows in variants:
        rig = make_rig()
        await rig.load_all()
        await rig.open_all()
        token, _ = await rig.through(rows, 0)
        tokens.append(token)
    assert len(set(tokens)) == len(variants)


async def test_a_step_takes_the_modelled_time_and_steps_queue() -> None:
    rig = make_rig()
    await rig.load_all()
    await rig.open_all()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for frame in (rig.first_frame(PROMPT, 0), rig.first_frame((1,), len(PROMPT))):
            nursery.start_soon(rig.worker.step, rig.specs[0].shard, frame)
            await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() - began == pytest.approx(3 * 0.0011 + 3 * 0.00101)


async def test_a_hanging_worker_neither_fails_nor_works_until_it_is_resumed() -> None:
    rig = make_rig()
    worker = rig.worker
    assert isinstance(worker, VirtualWorker)
    await rig.load_all()
    await rig.open_all()
    worker.hang()
    with trio.move_on_after(60) as waited:
        await rig.through(PROMPT, 0)
    assert waited.cancelled_caught
    assert worker.work([(SESSION, 0)]) == 0
    worker.resume()
    token, _ = await rig.through(PROMPT, 0)
    assert token is not None


async def prepared(layers: int = 10, layer_ms: float = 100.0) -> tuple[VirtualWorker, ShardId, Frame]:
    """A worker with one shard and one cache, and a frame that takes it `layers` times `layer_ms`."""
    worker = VirtualWorker(layer_ms=layer_ms, row_ms=1e-6)
    shard = ShardId(ModelDigest("ab" * 32), LayerRange(0, layers))
    await worker.load(
        ShardSpec(shard, virtual_config(layers), (), "f32", "exact"), lambda _done, _total: None
    )
    await worker.open_cache(shard, SESSION, 0, CacheSpec(1, 64, Sampling()))
    header = Header(Kind.DECODE, SESSION, 0, 0, 0, 1, 0, 0, Numerics.EXACT, DType.F32, sample=True)
    return worker, shard, Frame(header, (1,), b"")


async def test_work_rises_while_a_step_is_computed() -> None:
    worker, shard, frame = await prepared()
    stepping = worker.start_step(shard, frame)
    seen = []
    for _ in range(11):
        seen.append(worker.work([(SESSION, 0)]))
        await trio.sleep(0.1001)
    assert seen == list(range(11))
    assert (await stepping.result()).token is not None


async def test_who_started_a_step_is_told_once_when_its_result_is_there() -> None:
    worker, shard, frame = await prepared()
    told: list[float] = []
    stepping = worker.start_step(shard, frame, lambda: told.append(trio.current_time()))
    began = trio.current_time()
    worker.slow(2)
    await trio.sleep(1.5)
    assert told == []
    await trio.sleep(10)
    assert told == [pytest.approx(began + 2, abs=0.002)]
    await stepping.result()
    assert trio.current_time() == pytest.approx(began + 11.5)


async def test_who_started_a_step_is_told_too_when_the_worker_hangs_and_dies() -> None:
    worker, shard, frame = await prepared()
    told: list[float] = []
    stepping = worker.start_step(shard, frame, lambda: told.append(trio.current_time()))
    worker.hang()
    await trio.sleep(100)
    assert told == []
    worker.crash()
    await trio.testing.wait_all_tasks_blocked()
    assert len(told) == 1
    with pytest.raises(WorkerDied):
        await stepping.result()


async def test_a_hang_in_mid_step_stops_the_work_and_delays_the_rest() -> None:
    worker, shard, frame = await prepared()
    began = trio.current_time()
    stepping = worker.start_step(shard, frame)
    await trio.sleep(0.45)
    worker.hang()
    assert worker.work([(SESSION, 0)]) == 4
    await trio.sleep(100)
    assert worker.work([(SESSION, 0)]) == 4
    worker.resume()
    result = await stepping.result()
    assert trio.current_time() - began == pytest.approx(101)
    assert result.step_ms == pytest.approx(101_000)
    assert worker.work([(SESSION, 0)]) == 10


async def test_a_slow_worker_takes_longer_for_what_is_under_way_as_well() -> None:
    worker, shard, frame = await prepared()
    began = trio.current_time()
    stepping = worker.start_step(shard, frame)
    await trio.sleep(0.5)
    worker.slow(4)
    result = await stepping.result()
    assert trio.current_time() - began == pytest.approx(2.5)
    assert result.step_ms == pytest.approx(2500)
    assert await worker.measure_layer(SHAPE) == pytest.approx(400)
    worker.slow(1)
    assert await worker.measure_layer(SHAPE) == pytest.approx(100)


async def test_a_crash_in_mid_step_ends_it_and_what_waits_behind() -> None:
    worker, shard, frame = await prepared()
    started = [worker.start_step(shard, frame) for _ in range(3)]
    assert worker.waiting() == 2
    await trio.sleep(0.5)
    worker.crash()
    for stepping in started:
        with pytest.raises(WorkerDied):
            await stepping.result()
    assert (worker.waiting(), worker.kv_bytes, worker.work([(SESSION, 0)])) == (0, 0, 0)


async def test_a_worker_computes_on_for_whoever_gives_up() -> None:
    worker, shard, frame = await prepared()
    with trio.move_on_after(0.1):
        await worker.step(shard, frame)
    await trio.sleep(1)
    assert worker.waiting() == 0
    assert worker.work([(SESSION, 0)]) == 10


async def test_a_worker_computes_on_while_nobody_gets_a_turn_to_look() -> None:
    worker, shard, frame = await prepared()
    second = replace(frame, header=replace(frame.header, position=1, truncate_to=1))
    first, behind = worker.start_step(shard, frame), worker.start_step(shard, second)
    await trio.sleep(10)  # the daemon is stopped
    woken = trio.current_time()
    assert (await behind.result()).step_ms == pytest.approx(1000)
    assert (await first.result()).step_ms == pytest.approx(1000)
    assert trio.current_time() == woken


async def test_what_caches_hold_is_seen_by_session_and_goes_with_them() -> None:
    worker, shard, _ = await prepared()
    await worker.open_cache(shard, OTHER, 0, CacheSpec(1, 32, Sampling()))
    assert worker.sessions == {SESSION: 64 * 10 * KV_ROW_BYTES, OTHER: 32 * 10 * KV_ROW_BYTES}
    assert worker.kv_bytes == 96 * 10 * KV_ROW_BYTES
    await worker.close_cache(shard, SESSION, 0)
    assert worker.sessions == {OTHER: 32 * 10 * KV_ROW_BYTES}
    await worker.unload(shard)
    assert worker.kv_bytes == 0


async def test_a_cancelled_opening_leaves_no_cache() -> None:
    worker, shard, frame = await prepared()
    await worker.close_cache(shard, SESSION, 0)
    busy = worker.start_step(shard, frame)
    with trio.move_on_after(0.5):
        await worker.open_cache(shard, OTHER, 0, CacheSpec(1, 32, Sampling()))
    with pytest.raises(Unavailable):
        await busy.result()
    assert worker.kv_bytes == 0


async def test_more_requests_than_a_worker_takes_are_refused() -> None:
    worker, shard, frame = await prepared()
    with pytest.raises(Overloaded):
        for _ in range(limits.WORKER_REQUESTS_MAX + 2):
            worker.start_step(shard, frame)


async def test_calls_fail_for_the_restart_time_after_a_crash() -> None:
    worker = VirtualWorker(restart_s=2)
    worker.hang()
    worker.crash()
    await trio.sleep(1.9)
    shard = make_rig().specs[0].shard
    with pytest.raises(WorkerDied):
        await worker.unload(shard)
    await trio.sleep(0.2)
    await worker.unload(shard)


async def test_foreign_floats_are_refused() -> None:
    rig = make_rig()
    await rig.load_all()
    shard = rig.specs[1].shard
    await rig.worker.open_cache(shard, SESSION, 1, CacheSpec(1, 8, Sampling()))
    header = Header(Kind.DECODE, SESSION, 0, 1, 0, 1, WIDTH, 0, Numerics.EXACT, DType.F32)
    for body in (b"\xff" * 32, b"\0\0\x80\x7f" * 8, b"\0\0\x80\xc3" * 8):
        with pytest.raises(Malformed):
            await rig.worker.step(shard, Frame(replace(header), (1,), body))


async def test_rows_of_an_earlier_prompt_are_taken_over_and_change_no_token() -> None:
    rig = make_rig()
    assert isinstance(rig.worker, VirtualWorker)
    rig.worker.memory_bytes = 1 << 30
    await rig.load_all()
    prompt = tuple(range(300))

    async def say(session: SessionId, peer: str) -> tuple[int, int | None]:
        spec = CacheSpec(300, 320, Sampling(), PeerId(peer), prefix=(b"one", b"two"))
        rows = [
            await rig.worker.open_cache(each.shard, session, at, spec) for at, each in enumerate(rig.specs)
        ]
        at = min(rows)
        assert at == max(rows)
        for end in (128, 256, 300):
            if at < end:
                token, _ = await rig.through(prompt[at:end], at, session)
                at = end
        return rows[0], token

    first = await say(SESSION, "ada")
    assert first[0] == 0
    assert await say(OTHER, "ada") == (256, first[1])
    assert await say(SessionId("0b" * 16), "bob") == first
    await rig.worker.drop_prefixes()
    assert await say(SessionId("0c" * 16), "ada") == first
