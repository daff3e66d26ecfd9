"""What goes wrong around a ring at bad moments, and what peers may do that they should not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import MockClock

from inference.sessions import events as e
from inference.sessions.relay import Relay
from mesh.rpc import Channel, accepting
from protocols import limits, streams
from protocols.errors import Disconnected, NoRoute, Overloaded, Unavailable
from protocols.ids import PeerId, SessionId
from protocols.seams import ShardId, Stepping
from protocols.session import CREDIT_CODEC, SESSION_CODEC, Sampled, SessionMessage, StageOpened
from protocols.tensor import DType, Frame, Header, Kind, Numerics, encode_prefix
from simulations.network.internet import NETWORK_ID, VirtualWorld
from tests.contracts.talk import introduce
from tests.inference.sessions.ring import generate, open_ring, order
from tests.inference.sessions.test_ring import unbroken


@pytest.mark.parametrize(("dead", "busy"), [(1, 2), (2, 1)])
async def test_a_peer_that_is_dead_already_costs_no_other_its_place(
    autojump_clock: MockClock, dead: int, busy: int
) -> None:
    async with open_ring(3) as ring, trio.open_nursery() as nursery:
        # The busy one has heard of the session and not opened it when the route changes under it.
        nursery.start_soon(ring.nodes[busy].worker._compute, 1.0)
        ring.world.links.set_latency(ring.entry.peer, ring.nodes[dead].peer, 0.1)
        ring.kill(ring.nodes[dead])
        run = await generate(ring, order())
        assert run.error is None
        assert run.tokens == await unbroken(order())
        assert [recovery.lost for recovery in run.recoveries] == [ring.nodes[dead].peer]
        await trio.sleep(2)
        assert not any(node.server.sessions for node in ring.nodes)


async def test_an_entry_whose_own_worker_dies_goes_on_elsewhere(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        run = await generate(ring, order(), {10: ring.nodes[0].worker.crash})
        assert run.error is None
        assert run.tokens == await unbroken(order())
        assert [recovery.lost for recovery in run.recoveries] == [ring.nodes[0].peer]


async def test_a_last_stage_that_answers_before_it_is_asked_harms_its_session_alone(
    autojump_clock: MockClock,
) -> None:
    async def lie(channel: Channel[SessionMessage]) -> None:
        await channel.receive()
        await channel.send(StageOpened(0))
        await trio.sleep(0.1)
        for position in range(20, 60):
            await channel.send(Sampled(0, position, 1))
        await channel.receive()

    async with open_ring(3, standbys=False) as ring:
        ring.nodes[2].network.handle(
            streams.SESSION, accepting(streams.SESSION, SESSION_CODEC, NETWORK_ID, lie)
        )
        run = await generate(ring, order())
        assert run.reason or isinstance(run.error, NoRoute)


async def test_leaving_early_leaves_no_outlet_behind(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        for at in (1, 25):
            async with ring.entry.entry.generate(order(), ring.claims(), ring.replace) as happenings:
                async for event in happenings:
                    if isinstance(event, e.Emit) and event.position == 20 + at:
                        break
        await trio.sleep(2)
        assert not any(node.relay._outlets for node in ring.nodes)


async def test_peers_that_cannot_be_reached_leave_no_trace_in_the_relay(autojump_clock: MockClock) -> None:
    async with open_ring(1) as ring:
        for number in range(20):
            outlet = ring.entry.relay.outlet(PeerId(f"nobody {number}"), SessionId("ab" * 16), 0, 0)
            with pytest.raises(Unavailable):
                await outlet.send(_rows(1, 8))
            outlet.close()
        assert not ring.entry.relay._opening
        assert not ring.entry.relay._outlets


def _rows(rows: int, width: int, session: str = "ab" * 16) -> Frame:
    header = Header(
        Kind.PREFILL, SessionId(session), 0, 0, 0, rows, width, 0, Numerics.EXACT, DType.F32
    )  # fmt: skip
    return Frame(header, (0,) * rows, bytes(header.body_bytes))


async def test_who_is_cancelled_inside_a_frame_breaks_no_stream_of_others(autojump_clock: MockClock) -> None:
    world = VirtualWorld(latency_s=0.002)
    one, two = world.network(), world.network()
    arrived: list[Frame] = []
    async with one.run(), two.run(), trio.open_nursery() as nursery:
        introduce(one, two)
        sender, receiver = Relay(one, NETWORK_ID), Relay(two, NETWORK_ID)
        await nursery.start(sender.run)
        await nursery.start(receiver.run)
        for session in ("ab" * 16, "cd" * 16):
            receiver.register(SessionId(session), 0, lambda frame, _: arrived.append(frame))
        mine = sender.outlet(two.peer, SessionId("ab" * 16), 0, 0)
        yours = sender.outlet(two.peer, SessionId("cd" * 16), 0, 0)
        await yours.send(_rows(1, 8, "cd" * 16))
        world.cut(one.peer, two.peer)
        with trio.move_on_after(1):
            await mine.send(_rows(128, 4096))  # far more than a window takes
        world.heal()
        await trio.sleep(1)
        await yours.send(_rows(2, 8, "cd" * 16))
        await trio.sleep(1)
        assert [frame.header.rows for frame in arrived if frame.header.session == "cd" * 16] == [1, 2]
        nursery.cancel_scope.cancel()


async def test_a_stream_that_breaks_is_felt_by_those_who_used_it_alone(autojump_clock: MockClock) -> None:
    world = VirtualWorld(latency_s=0.002)
    one, two = world.network(), world.network()
    async with one.run(), two.run(), trio.open_nursery() as nursery:
        introduce(one, two)
        sender, receiver = Relay(one, NETWORK_ID), Relay(two, NETWORK_ID)
        await nursery.start(sender.run)
        await nursery.start(receiver.run)
        used, unused = (sender.outlet(two.peer, SessionId(name * 16), 0, 0) for name in ("ab", "cd"))
        await used.send(_rows(1, 8))
        await sender._links[two.peer, streams.PREFILL].channel.stream.reset()
        await trio.sleep(1)
        with pytest.raises(Disconnected):
            await used.send(_rows(1, 8))
        await unused.send(_rows(1, 8, "cd" * 16))
        nursery.cancel_scope.cancel()


async def test_a_node_that_goes_down_in_mid_session_blames_nobody_else(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        run = await generate(ring, order(), {10: ring.nodes[1].server.end})
        assert run.error is None
        assert run.tokens == await unbroken(order())
        assert [recovery.lost for recovery in run.recoveries] == [ring.nodes[1].peer]
        again = await generate(ring, order())
        assert "going down" in again.recoveries[0].reason


async def test_a_stage_that_waits_for_its_turn_is_not_given_up(autojump_clock: MockClock) -> None:
    runs = []

    async def one(number: int, prompt: int) -> None:
        runs.append(await generate(ring, order(tokens=30, prompt=prompt, number=number)))

    # One chunk of the long prompt takes 2.5 s at each stage, and a token of the short one waits behind it.
    async with open_ring(3, row_ms=6.0) as ring, trio.open_nursery() as nursery:
        nursery.start_soon(one, 1, 2)
        await trio.sleep(1)
        nursery.start_soon(one, 2, 4 * limits.PREFILL_CHUNK_ROWS)
    assert [(run.reason, run.recoveries) for run in runs] == [("length", [])] * 2


async def test_a_large_frame_over_a_slow_link_arrives(autojump_clock: MockClock) -> None:
    world = VirtualWorld(latency_s=0.002)
    one, two = world.network(), world.network()
    arrived: list[Frame] = []
    async with one.run(), two.run(), trio.open_nursery() as nursery:
        introduce(one, two)
        receiver = Relay(two, NETWORK_ID)
        await nursery.start(receiver.run)
        receiver.register(SessionId("ab" * 16), 0, lambda frame, _: arrived.append(frame))
        stream = await one.open_stream(two.peer, streams.PREFILL)
        channel = Channel(stream, streams.PREFILL, CREDIT_CODEC, NETWORK_ID)
        frame = _rows(128, 4096)
        await channel.send_raw(encode_prefix(frame))
        for start in range(0, len(frame.body), 128 * limits.KIB):  # at 128 KiB/s
            await trio.sleep(1)
            await channel.send_raw(memoryview(frame.body)[start : start + 128 * limits.KIB])
        await trio.sleep(1)
        assert len(arrived) == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("is_exact", "replayed"),
    [
        (True, [(0, 128), (128, 72), (200, 56), (256, 3)]),
        (False, [(0, 128), (128, 72), *((at, 1) for at in range(200, 259))]),
    ],
)
async def test_rows_are_replayed_in_the_blocks_in_which_they_may_be_computed(
    autojump_clock: MockClock, is_exact: bool, replayed: list[tuple[int, int]]
) -> None:
    fed: list[tuple[Kind, int, int, bool]] = []
    async with open_ring(3, is_exact=is_exact, entry=2) as ring:
        rebuilt = ring.nodes[1]
        start_step = rebuilt.worker.start_step

        def watch(shard: ShardId, frame: Frame, *rest: Callable[[], None]) -> Stepping:
            header = frame.header
            if header.stage == 0:
                fed.append((header.kind, header.position, header.rows, header.sample))
            return start_step(shard, frame, *rest)

        rebuilt.worker.start_step = watch  # type: ignore[method-assign,assignment]
        await generate(ring, order(tokens=80, prompt=200), {60: lambda: ring.kill(ring.nodes[0])})
    assert [(at, rows) for kind, at, rows, _ in fed if kind is Kind.REPLAY] == replayed
    assert [(kind, at, sample) for kind, at, _, sample in fed][len(replayed)] == (Kind.DECODE, 259, True)
    assert {sample for kind, *_, sample in fed if kind is Kind.REPLAY} == {False}


async def test_the_prompt_and_its_answer_take_streams_of_their_own(autojump_clock: MockClock) -> None:
    async with open_ring(3) as ring:
        await generate(ring, order())
        kinds = {kind for peer, kind in ring.nodes[0].relay._links if peer == ring.nodes[1].peer}
        assert kinds == {streams.PREFILL, streams.DECODE}


async def test_a_stage_that_was_given_up_is_closed_and_nothing_is_fed_to_it_any_more(
    autojump_clock: MockClock,
) -> None:
    kept: list[tuple[int, int]] = []

    def look() -> None:
        outlets = [outlet for outlet in ring.entry.relay._outlets.values() if outlet.stage == 0]
        kept.append((len(ring.nodes[0].server.sessions), len(outlets)))

    def hang_up() -> None:
        ring.nodes[0].worker.hang()
        look()

    async with open_ring(3, entry=2) as ring:
        faults: dict[int, object] = {10: hang_up, 11: ring.nodes[0].worker.resume, 200: look}
        run = await generate(ring, order(tokens=250), faults)
        assert [recovery.lost for recovery in run.recoveries] == [ring.nodes[0].peer]
    assert kept == [(1, 1), (0, 1)]


def test_a_peer_cannot_give_more_credit_than_there_was() -> None:
    relay = Relay(VirtualWorld().network(), NETWORK_ID)
    outlet = relay.outlet(PeerId("b"), SessionId("ab" * 16), 0, 0)
    outlet.receive_credit(1000)
    assert outlet.credits == limits.CREDITS_PER_SESSION


async def test_a_node_runs_only_so_many_sessions(autojump_clock: MockClock) -> None:
    async with open_ring(1) as ring, AsyncExitStack() as stack:
        entry = ring.entry.entry
        for number in range(limits.SESSIONS_MAX):
            wanted = order(number=number)
            await stack.enter_async_context(entry.generate(wanted, ring.claims(), ring.replace))
        with pytest.raises(Overloaded, match="64 sessions are running here"):
            await stack.enter_async_context(entry.generate(order(number=99), ring.claims(), ring.replace))
