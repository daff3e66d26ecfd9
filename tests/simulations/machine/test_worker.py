"""The virtual worker keeps the contract, and its arithmetic betrays every mistake with rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from protocols.errors import Malformed, WorkerDied
from protocols.ids import ModelDigest
from protocols.placement import LayerRange
from protocols.seams import CacheSpec, ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType, Frame, Header, Kind, Numerics
from simulations.machine.worker import LAYER_BYTES, WIDTH, VirtualWorker, virtual_config
from tests.contracts.worker_contract import PROMPT, SESSION, Rig, WorkerContract
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
    assert worker.work(SESSION, 0) == 0
    worker.resume()
    token, _ = await rig.through(PROMPT, 0)
    assert token is not None


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
