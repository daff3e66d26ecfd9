"""What a peer may send to a stage, and what becomes of everything else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock

from mesh.rpc import Channel, closing, dial
from protocols import limits, streams
from protocols.errors import Disconnected
from protocols.ids import PeerId, SessionId
from protocols.placement import LayerRange
from protocols.session import (
    CREDIT_CODEC,
    SESSION_CODEC,
    CloseStage,
    Credit,
    Downstream,
    OpenStage,
    Reroute,
    Rerouted,
    Sampled,
    Sampling,
    SessionMessage,
    StageOpened,
    StageRefused,
    StageTrouble,
)
from protocols.tensor import DType, Frame, Header, Kind, Numerics, encode_prefix
from simulations.machine.arithmetic import WIDTH
from simulations.network.internet import NETWORK_ID
from tests.inference.sessions.ring import LAYERS, MODEL, Ring, RingNode, generate, open_ring, order

SESSION = SessionId("ab" * 16)


def opening(stage: int = 0, start: int = 6, end: int = LAYERS) -> OpenStage:
    return OpenStage(SESSION, 0, MODEL, LayerRange(start, end), stage, None, 4, 8, Sampling())


def rows(position: int = 0, count: int = 4, *, stage: int = 0, width: int = WIDTH, epoch: int = 0) -> Frame:
    header = Header(
        Kind.PREFILL,
        SESSION,
        epoch,
        stage,
        position,
        count,
        width,
        position,
        Numerics.EXACT,
        DType.F32,
        sample=True,
    )
    return Frame(header, tuple(range(count)), bytes(header.body_bytes))


@asynccontextmanager
async def session_with(ring: Ring, node: RingNode) -> AsyncIterator[Channel[SessionMessage]]:
    network = ring.entry.network
    async with dial(network, node.peer, streams.SESSION, SESSION_CODEC, NETWORK_ID) as channel:
        yield channel


@asynccontextmanager
async def activations_to(ring: Ring, node: RingNode) -> AsyncIterator[Channel[Credit]]:
    stream = await ring.entry.network.open_stream(node.peer, streams.PREFILL)
    async with closing(stream):
        yield Channel(stream, streams.PREFILL, CREDIT_CODEC, NETWORK_ID)


async def next_but_progress(channel: Channel[SessionMessage]) -> SessionMessage:
    while True:
        message = await channel.receive()
        if type(message).__name__ != "Progress":
            return message


async def test_rows_become_a_token(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            assert await session.receive() == StageOpened(0)
            frame = rows()
            await activations.send_raw(encode_prefix(frame), frame.body)
            sampled = await next_but_progress(session)
            assert isinstance(sampled, Sampled)
            assert (sampled.position, sampled.ends) == (4, False)
            await session.send(CloseStage())


async def test_credits_come_back_several_at_a_time_and_before_the_last_is_spent(
    autojump_clock: MockClock,
) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            assert await session.receive() == StageOpened(0)
            for position in range(limits.CREDITS_PER_SESSION - 1):
                frame = rows(position, count=1)
                await activations.send_raw(encode_prefix(frame), frame.body)
            assert await activations.receive() == Credit(SESSION, 0, 0, limits.CREDITS_PER_SESSION // 2)
            with trio.move_on_after(5) as waited:
                await activations.receive()
            assert waited.cancelled_caught
            await session.send(CloseStage())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (msgspec.structs.replace(rows().header, width=WIDTH + 1), "width"),
        (msgspec.structs.replace(rows().header, rows=9), "reserved"),
        (msgspec.structs.replace(rows().header, dtype=DType.BF16), "dtype"),
    ],
)
async def test_rows_that_do_not_fit_harm_the_sender_alone(
    autojump_clock: MockClock, wrong: Header, why: str
) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            await session.receive()
            frame = Frame(wrong, tuple(range(wrong.rows)), bytes(wrong.body_bytes))
            await activations.send_raw(encode_prefix(frame), frame.body)
            if why == "reserved":
                assert isinstance(await next_but_progress(session), StageTrouble)
            else:
                with pytest.raises(Disconnected):
                    await activations.receive()
        assert (await generate(ring, order())).reason == "length"


@pytest.mark.parametrize("garbage", [b"\xff" * 200, b"WFT1" + b"\xff" * 200, encode_prefix(rows())[:80]])
async def test_garbage_on_the_data_plane_ends_that_stream_and_nothing_else(
    autojump_clock: MockClock, garbage: bytes
) -> None:
    async with open_ring() as ring:
        async with activations_to(ring, ring.nodes[2]) as activations:
            await activations.send_raw(garbage)
            await activations.stream.close()
            with pytest.raises(Disconnected):
                await activations.receive()
        assert (await generate(ring, order())).reason == "length"


async def test_a_flipped_bit_is_found_by_its_checksum(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            await session.receive()
            frame = rows()
            body = bytearray(frame.body)
            body[7] ^= 1
            await activations.send_raw(encode_prefix(frame), body)
            with pytest.raises(Disconnected):
                await activations.receive()
            assert node.worker.work([(SESSION, 0)]) == 0


async def test_more_frames_than_credits_end_the_stream_of_the_sender(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            await session.receive()
            node.worker.hang()
            frame = rows()
            flood = [encode_prefix(frame) + bytes(frame.body)] * (10 * limits.CREDITS_PER_SESSION)
            await activations.send_raw(*flood)
            with pytest.raises(Disconnected):
                await activations.receive()
            assert dict(node.network.faults) == {"Malformed": 1}
            node.worker.resume()


async def test_rows_for_a_session_that_has_ended_are_dropped_in_silence(autojump_clock: MockClock) -> None:
    async with open_ring() as ring, activations_to(ring, ring.nodes[2]) as activations:
        frame = rows()
        await activations.send_raw(encode_prefix(frame), frame.body)
        with trio.move_on_after(5) as waited:
            await activations.receive()
        assert waited.cancelled_caught


async def test_a_stage_is_refused_where_its_range_is_not_held_or_open_already(
    autojump_clock: MockClock,
) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as first, session_with(ring, node) as second:
            await first.send(opening())
            assert await first.receive() == StageOpened(0)
            await second.send(opening())
            refused = await second.receive()
            assert isinstance(refused, StageRefused)
            assert "open already" in refused.reason
        async with session_with(ring, node) as third:
            await third.send(opening(start=0, end=2))
            refused = await third.receive()
            assert isinstance(refused, StageRefused)
            assert "not held here" in refused.reason


async def test_a_session_that_begins_with_something_else_is_reset(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        async with session_with(ring, ring.nodes[2]) as session:
            await session.send(CloseStage())
            with pytest.raises(Disconnected):
                await session.receive()
        async with session_with(ring, ring.nodes[2]) as session:
            await session.send(opening())
            await session.receive()
            await session.send(StageOpened(0))
            with pytest.raises(Disconnected):
                await next_but_progress(session)
        await trio.sleep(1)
        assert ring.is_clean


async def test_an_order_of_an_older_epoch_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            await session.receive()
            await session.send(Reroute(2, 0, None))
            assert await next_but_progress(session) == Rerouted(2, 0, complete=True)
            await session.send(Reroute(1, 0, None))
            frame = rows(epoch=1)
            await activations.send_raw(encode_prefix(frame), frame.body)
            frame = rows(epoch=2)
            await activations.send_raw(encode_prefix(frame), frame.body)
            sampled = await next_but_progress(session)
            assert isinstance(sampled, Sampled)
            assert sampled.epoch == 2


async def test_going_down_refuses_new_stages_and_waits_for_the_open_ones(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session:
            await session.send(opening())
            await session.receive()
            node.server.refuse("this node is going down")
            with trio.move_on_after(3) as waited:
                await node.server.drain()
            assert waited.cancelled_caught
            async with session_with(ring, node) as late:
                await late.send(opening(stage=1))
                assert await late.receive() == StageRefused("this node is going down")
            await session.send(CloseStage())
            await node.server.drain()


async def test_while_memory_is_short_no_stage_is_opened_and_those_that_are_open_go_on(
    autojump_clock: MockClock,
) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, session_with(ring, node) as late:
            await session.send(opening())
            await session.receive()
            node.server.shortage = "it is short of memory"
            await late.send(opening(stage=1))
            assert await late.receive() == StageRefused("it is short of memory")
            assert len(node.server.sessions) == 1
        node.server.shortage = ""
        async with session_with(ring, node) as later:
            await later.send(opening(stage=1))
            assert isinstance(await later.receive(), StageOpened)


@pytest.mark.parametrize(
    "order",
    [Reroute(1, 0, Downstream(PeerId("x"), 1)), Reroute(1, 0, None, replay=True)],
)
async def test_the_last_stage_is_never_turned_into_another_nor_asked_to_replay(
    autojump_clock: MockClock, order: Reroute
) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session:
            await session.send(opening())
            await session.receive()
            await session.send(order)
            with pytest.raises(Disconnected):
                await next_but_progress(session)
        assert dict(node.network.faults) == {"Malformed": 1}


async def test_a_stage_behind_the_end_of_the_model_gets_nothing(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(msgspec.structs.replace(opening(), downstream=Downstream(node.peer, 1)))
            await session.receive()
            frame = rows()
            await activations.send_raw(encode_prefix(frame), frame.body)
            with pytest.raises(Disconnected):
                await next_but_progress(session)
        assert dict(node.network.faults) == {"Malformed": 1}


async def test_rows_that_a_waiting_reroute_will_undo_are_not_computed(autojump_clock: MockClock) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(opening())
            await session.receive()
            node.worker.hang()
            for position in range(4):
                frame = rows(position, 1)
                await activations.send_raw(encode_prefix(frame), frame.body)
            await trio.sleep(0.1)
            await session.send(Reroute(1, 0, None))
            await trio.sleep(0.1)
            node.worker.resume()
            while not isinstance(message := await session.receive(), Rerouted):
                pass
            assert message == Rerouted(1, 0, complete=True)
            assert node.worker.work([(SESSION, 0)]) == LAYERS - 6
            frame = rows(epoch=1)
            await activations.send_raw(encode_prefix(frame), frame.body)
            sampled = await next_but_progress(session)
            assert isinstance(sampled, Sampled)
            assert sampled.position == 4


async def test_a_stage_that_is_opened_again_in_a_later_epoch_begins_anew_for_its_entry_alone(
    autojump_clock: MockClock,
) -> None:
    async with open_ring() as ring:
        node = ring.nodes[2]
        later = msgspec.structs.replace(opening(), epoch=1)
        async with session_with(ring, node) as first, session_with(ring, node) as second:
            await first.send(opening())
            assert await first.receive() == StageOpened(0)
            async with dial(
                ring.nodes[1].network, node.peer, streams.SESSION, SESSION_CODEC, NETWORK_ID
            ) as foreign:
                await foreign.send(later)
                assert isinstance(await foreign.receive(), StageRefused)
            await second.send(later)
            assert await second.receive() == StageOpened(1)
            with pytest.raises(Disconnected):
                await next_but_progress(first)
            assert list(node.server.sessions.values()) == [later]
        await trio.sleep(1)
        assert ring.is_clean


@pytest.mark.parametrize("replay", [False, True])
async def test_a_reroute_gets_through_while_the_stage_behind_takes_nothing(
    autojump_clock: MockClock, *, replay: bool
) -> None:
    async with open_ring(is_exact=False) as ring:
        node, deaf = ring.nodes[1], Downstream(ring.nodes[2].peer, 1)  # which knows nothing of the session
        first = msgspec.structs.replace(
            opening(start=3, end=6), rows_max=100, downstream=deaf, forward_from=20 if replay else 0
        )
        async with session_with(ring, node) as session, activations_to(ring, node) as activations:
            await session.send(first)
            await session.receive()
            for position in range(20 if replay else limits.CREDITS_PER_SESSION + 2):
                frame = rows(position, 1)
                await activations.send_raw(encode_prefix(frame), frame.body)
                await trio.sleep(0.1)
            if replay:
                await session.send(Reroute(1, 20, deaf, replay=True))
                assert await next_but_progress(session) == Rerouted(1, 20, complete=True)
                await trio.sleep(1)
            await session.send(Reroute(2, 4, deaf))
            with trio.fail_after(1):
                assert await next_but_progress(session) == Rerouted(2, 0, complete=True)


async def test_a_node_opens_only_so_many_stages(autojump_clock: MockClock) -> None:
    async with open_ring() as ring, AsyncExitStack() as stack:
        answers = []
        for number in range(limits.SESSIONS_MAX + 1):
            session = await stack.enter_async_context(session_with(ring, ring.nodes[2]))
            await session.send(msgspec.structs.replace(opening(), session=SessionId(f"{number:032x}")))
            answers.append(await session.receive())
        assert answers[:-1] == [StageOpened(0)] * limits.SESSIONS_MAX
        assert answers[-1] == StageRefused("64 sessions are open here")
