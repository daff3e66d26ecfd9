"""What every `protocols.seams.Network` promises, as tests that know nothing but the seam.

To hold an implementation to it, subclass and give the one fixture:

    @ON_VIRTUAL_TIME
    class TestVirtualNetwork(NetworkContract):
        @pytest.fixture
        def make_network(self) -> MakeNetwork:
            return VirtualWorld().network

`make_network()` gives a network with an identity of its own that is not running yet; all that one test makes belong to one
network id. Everything else (running, learning, admitting) is done here, through the seam.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio

from protocols import limits, streams
from protocols.errors import Disconnected, Malformed, RemoteFault, Unauthenticated, Unavailable
from protocols.ids import PeerId
from protocols.membership import Contact
from protocols.seams import Network, PeerDown, PeerUp, Stream
from protocols.streams import Plane
from tests.contracts.talk import (
    SOON_S,
    ListedDoor,
    ShowingDoor,
    admit,
    await_events,
    contact_of,
    echo,
    exchange,
    expect_end,
    introduce,
    members,
    read_all,
    running,
)

MakeNetwork = Callable[[], Network]

SECURITY = "/weft/noise-xk/1"
SENT_BYTES = 32 << 20  # more than any window: the largest that yamux grows to is 16 MiB
CHUNK_SIZES = (1, 7, 4_093, 65_537, 300, 131_071, 2)


class NetworkContract:
    """Inherit, name the class `Test…`, and provide the fixture `make_network`."""

    async def test_an_echo_comes_back_on_both_planes(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            for kind in (streams.MEMBERS, streams.DECODE):
                two.handle(kind, echo)
                assert await exchange(one, two, kind, b"hello") == b"hello"

    async def test_both_ends_of_a_stream_know_whom_they_speak_with(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):

            async def say_peer(stream: Stream) -> None:
                await stream.send(stream.peer.encode())

            two.handle(streams.MEMBERS, say_peer)
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            assert stream.peer == two.peer
            assert await read_all(stream) == one.peer.encode()
            await stream.close()

    async def test_a_mebibyte_in_odd_chunks_arrives_in_order(self, make_network: MakeNetwork) -> None:
        payload = bytes(itertools.islice(itertools.cycle(range(251)), 1 << 20))
        async with members(make_network(), make_network()) as (one, two), trio.open_nursery() as nursery:
            two.handle(streams.DECODE, echo)
            stream = await one.open_stream(two.peer, streams.DECODE)

            async def send() -> None:
                start = 0
                for size in itertools.cycle(CHUNK_SIZES):
                    if start >= len(payload):
                        break
                    await stream.send(memoryview(payload)[start : start + size])
                    start += size
                await stream.close()

            nursery.start_soon(send)
            assert await read_all(stream) == payload

    async def test_receive_gives_no_more_than_was_asked_for(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, echo)
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            await stream.send(b"abcdefgh")
            received = b""
            while len(received) < 8:
                piece = await stream.receive(3)
                assert 0 < len(piece) <= 3
                received += piece
            assert received == b"abcdefgh"
            await stream.close()

    async def test_a_closed_direction_ends_with_nothing_and_the_other_goes_on(
        self, make_network: MakeNetwork
    ) -> None:
        async def answer_after_the_end(stream: Stream) -> None:
            question = await read_all(stream)
            assert await stream.receive() == b""
            await stream.send(b"you said " + question)

        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, answer_after_the_end)
            assert await exchange(one, two, streams.MEMBERS, b"yes") == b"you said yes"

    async def test_close_and_reset_can_be_repeated(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, echo)
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            for end in (stream.close, stream.close, stream.reset, stream.reset, stream.close):
                await end()

    async def test_a_reset_is_felt_at_both_ends(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            felt = trio.Event()

            async def wait_for_the_end(stream: Stream) -> None:
                await stream.send(b"ready")
                await expect_end(stream)
                felt.set()

            two.handle(streams.MEMBERS, wait_for_the_end)
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            assert await stream.receive() == b"ready"
            await stream.reset()
            await expect_end(stream)
            with trio.fail_after(SOON_S):
                await felt.wait()

    async def test_a_sender_waits_for_a_reader_that_does_not_read(self, make_network: MakeNetwork) -> None:
        may_read, sent = trio.Event(), trio.Event()
        counts: list[int] = []

        async def read_late(stream: Stream) -> None:
            await may_read.wait()
            counts.append(len(await read_all(stream)))
            await stream.send(b"done")

        async with members(make_network(), make_network()) as (one, two), trio.open_nursery() as nursery:
            two.handle(streams.DECODE, read_late)
            stream = await one.open_stream(two.peer, streams.DECODE)

            async def send() -> None:
                for _ in range(SENT_BYTES >> 20):
                    await stream.send(bytes(1 << 20))
                sent.set()
                await stream.close()

            nursery.start_soon(send)
            with trio.move_on_after(0.5):
                await sent.wait()
            assert not sent.is_set()
            may_read.set()
            assert await read_all(stream) == b"done"
            assert counts == [SENT_BYTES]

    @pytest.mark.parametrize("to_itself", [False, True])
    async def test_what_is_sent_without_waiting_arrives_whole_and_in_order(
        self, make_network: MakeNetwork, to_itself: bool
    ) -> None:
        pieces = [bytes([number]) * (997 * number) for number in range(60)]
        async with members(make_network(), make_network()) as (one, other), trio.open_nursery() as nursery:
            two = one if to_itself else other
            two.handle(streams.DECODE, echo)
            stream = await one.open_stream(two.peer, streams.DECODE)
            waited: list[int] = []

            async def send() -> None:
                for number, piece in enumerate(pieces):
                    memory = bytearray(piece)
                    if not stream.send_nowait(memory):
                        waited.append(number)
                        await stream.send(memory)
                    memory[:] = bytes(len(memory))  # the caller's again
                await stream.close()

            nursery.start_soon(send)
            assert await read_all(stream) == b"".join(pieces)
        assert 0 not in waited
        assert 1 not in waited

    @pytest.mark.parametrize("to_itself", [False, True])
    async def test_sending_without_waiting_takes_nothing_where_there_is_no_room(
        self, make_network: MakeNetwork, to_itself: bool
    ) -> None:
        piece, begun = bytes(range(250)) * 400, trio.Event()
        async with members(make_network(), make_network()) as (one, other), trio.open_nursery() as nursery:
            two = one if to_itself else other
            received: list[bytes] = []

            async def read_late(stream: Stream) -> None:
                await begun.wait()
                received.append(await read_all(stream))

            two.handle(streams.PREFILL, read_late)
            stream = await one.open_stream(two.peer, streams.PREFILL)
            taken = 0
            with trio.fail_after(SOON_S):
                while stream.send_nowait(piece):
                    taken += 1
                    await trio.lowlevel.checkpoint()
            assert not stream.send_nowait(piece)
            begun.set()
            nursery.start_soon(stream.close)
            assert await read_all(stream) == b""
            assert received == [piece * taken]

    async def test_what_is_sent_without_waiting_arrives_before_the_end(
        self, make_network: MakeNetwork
    ) -> None:
        piece = bytes(range(250)) * 1000
        async with members(make_network(), make_network()) as (one, two), trio.open_nursery() as nursery:
            received: list[bytes] = []

            async def read(stream: Stream) -> None:
                received.append(await read_all(stream))

            two.handle(streams.PREFILL, read)
            taken = 0
            for _ in range(40):
                stream = await one.open_stream(two.peer, streams.PREFILL)
                taken += stream.send_nowait(piece)
                nursery.start_soon(stream.close)
            with trio.fail_after(SOON_S):
                while len(received) < 40:
                    await trio.sleep(0.01)
            assert sorted(received) == [b""] * (40 - taken) + [piece] * taken

    @pytest.mark.parametrize("to_itself", [False, True])
    async def test_nothing_is_sent_without_waiting_on_a_stream_that_is_over(
        self, make_network: MakeNetwork, to_itself: bool
    ) -> None:
        async with members(make_network(), make_network()) as (one, other):
            two = one if to_itself else other
            two.handle(streams.DECODE, echo)
            for end in ("close", "reset"):
                stream = await one.open_stream(two.peer, streams.DECODE)
                await stream.send(b"hello")
                await getattr(stream, end)()
                with pytest.raises(Disconnected):
                    stream.send_nowait(b"more")

    async def test_a_stream_to_oneself_reaches_ones_own_handler(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, _):
            one.handle(streams.SESSION, echo)
            assert await exchange(one, one, streams.SESSION, b"me") == b"me"
            assert not one.connections()

    @pytest.mark.parametrize("error", [RuntimeError("bug"), Malformed("garbage"), Disconnected("gone")])
    async def test_a_handler_that_raises_resets_its_stream_and_harms_nothing_else(
        self, make_network: MakeNetwork, error: Exception
    ) -> None:
        async def fail(stream: Stream) -> None:
            await stream.receive()
            raise error

        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, echo)
            bystander = await one.open_stream(two.peer, streams.MEMBERS)
            two.handle(streams.SESSION, fail)
            stream = await one.open_stream(two.peer, streams.SESSION)
            await stream.send(b"boom")
            await expect_end(stream)
            await bystander.send(b"still here")
            assert await bystander.receive() == b"still here"
            await bystander.close()
            assert await exchange(one, two, streams.MEMBERS, b"and new ones") == b"and new ones"

    async def test_a_handler_that_raises_on_a_stream_to_oneself_resets_it(
        self, make_network: MakeNetwork
    ) -> None:
        async def fail(stream: Stream) -> None:
            await stream.receive()
            raise RuntimeError("bug")

        async with members(make_network()) as (one,):
            one.handle(streams.SESSION, fail)
            stream = await one.open_stream(one.peer, streams.SESSION)
            await stream.send(b"boom")
            await expect_end(stream)

    async def test_a_handler_that_returns_closes_its_stream(self, make_network: MakeNetwork) -> None:
        async def return_at_once(stream: Stream) -> None:
            await stream.send(b"bye")

        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, return_at_once)
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            assert await read_all(stream) == b"bye"
            await stream.close()

    async def test_a_kind_that_nobody_handles_is_unavailable(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            with pytest.raises(Unavailable):
                await exchange(one, two, streams.SESSION, b"anyone?")

    async def test_a_peer_that_was_not_admitted_is_refused(self, make_network: MakeNetwork) -> None:
        served: list[Stream] = []

        async def serve(stream: Stream) -> None:
            served.append(stream)

        async with members(make_network(), make_network(), make_network()) as (one, two, outsider):
            admit(two, one.peer)
            for kind in (streams.MEMBERS, streams.DECODE, streams.JOIN):
                two.handle(kind, serve)
                with pytest.raises((Unavailable, RemoteFault)):
                    await exchange(outsider, two, kind, b"let me in")
        assert not served

    async def test_a_stranger_gets_in_only_for_the_kinds_open_to_strangers(
        self, make_network: MakeNetwork
    ) -> None:
        served: list[str] = []

        async def serve(stream: Stream) -> None:
            served.append(stream.peer)

        async with members(make_network(), make_network(), make_network()) as (one, two, stranger):
            admit(two, one.peer, strangers=True)
            two.handle(streams.JOIN, echo)
            assert await exchange(stranger, two, streams.JOIN, b"please") == b"please"
            for kind in (streams.MEMBERS, streams.PING, streams.DECODE):
                two.handle(kind, serve)
                with pytest.raises((Unavailable, RemoteFault)):
                    await exchange(stranger, two, kind, b"and this")
        assert not served

    async def test_a_stranger_that_is_admitted_becomes_a_member(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, joiner):
            admit(one, strangers=True)
            for kind in (streams.JOIN, streams.MEMBERS, streams.DECODE):
                one.handle(kind, echo)
            assert await exchange(joiner, one, streams.JOIN, b"please") == b"please"
            admit(one, joiner.peer)
            for kind in (streams.MEMBERS, streams.DECODE):
                assert await exchange(joiner, one, kind, b"thanks") == b"thanks"

    async def test_connections_of_a_member_that_is_no_longer_admitted_end(
        self, make_network: MakeNetwork
    ) -> None:
        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, echo)
            stream = await one.open_stream(two.peer, streams.MEMBERS)
            admit(two)
            await expect_end(stream)

    async def test_each_side_judges_what_the_other_showed(self, make_network: MakeNetwork) -> None:
        one, two = make_network(), make_network()
        async with running(one, two):
            doors = ShowingDoor(b"from one"), ShowingDoor(b"from two")
            for network, door, other in ((one, doors[0], two), (two, doors[1], one)):
                network.guard(door)
                network.learn(contact_of(other))
            two.handle(streams.MEMBERS, echo)
            assert await exchange(one, two, streams.MEMBERS, b"hi") == b"hi"
            assert doors[0].judged == {(two.peer, b"from two")}
            assert doors[1].judged == {(one.peer, b"from one")}

    @pytest.mark.parametrize("shown", [b"", bytes(limits.SHOWN_BYTES_MAX)])
    async def test_nothing_may_be_shown_and_as_much_as_is_allowed(
        self, make_network: MakeNetwork, shown: bytes
    ) -> None:
        async with members(make_network(), make_network()) as (one, two):
            for network in (one, two):
                network.guard(ShowingDoor(shown))
            two.handle(streams.MEMBERS, echo)
            assert await exchange(one, two, streams.MEMBERS, b"hi") == b"hi"

    async def test_whoever_is_turned_away_hears_why(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            two.guard(ShowingDoor(refusal="your certificate ended 42 min ago\x1b[2J"))
            for _ in range(2):
                with pytest.raises(Unauthenticated, match="ended 42 min ago"):
                    await one.connect(two.peer, Plane.CONTROL)
            assert two.faults
            assert not one.connections()
            assert not two.connections()

    async def test_whoever_dials_judges_as_well(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            one.guard(ShowingDoor(refusal="its membership was revoked"))
            with pytest.raises(Unauthenticated, match="was revoked"):
                await one.connect(two.peer, Plane.DATA)
            assert not one.connections()
            one.guard(
                ListedDoor((), strangers=True)
            )  # who is let in as a stranger is no member to be dialled
            with pytest.raises(Unauthenticated):
                await one.connect(two.peer, Plane.CONTROL)

    async def test_nobody_gets_in_before_there_is_a_door(self, make_network: MakeNetwork) -> None:
        async with running(make_network(), make_network()) as (one, two):
            admit(one, two.peer)
            one.learn(contact_of(two))
            two.handle(streams.JOIN, echo)
            with pytest.raises((Unavailable, RemoteFault)):
                await exchange(one, two, streams.JOIN, b"please")

    async def test_strangers_have_no_data_plane(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (stranger, two):
            admit(two, strangers=True)
            with pytest.raises(Unauthenticated, match="certificate"):
                await stranger.connect(two.peer, Plane.DATA)

    async def test_strangers_make_no_events_until_they_are_members(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (stranger, two):
            admit(two, strangers=True)
            two.handle(streams.JOIN, echo)
            events = two.events()
            assert await exchange(stranger, two, streams.JOIN, b"please") == b"please"
            assert [info.is_member for info in two.connections()] == [False]
            with pytest.raises((Unavailable, RemoteFault)):
                await two.open_stream(stranger.peer, streams.JOIN)
            admit(two, stranger.peer)
            await await_events(events, PeerUp(stranger.peer, Plane.CONTROL))
            admit(two, strangers=True)
            await await_events(events, PeerDown(stranger.peer, Plane.CONTROL))

    async def test_connections_come_up_and_go_down_on_each_plane(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            seen_by_one, seen_by_two = one.events(), two.events()
            for plane in Plane:
                await one.connect(two.peer, plane)
                await one.connect(two.peer, plane)
                await await_events(seen_by_one, PeerUp(two.peer, plane))
                await await_events(seen_by_two, PeerUp(one.peer, plane))
            await one.disconnect(two.peer)
            await await_events(seen_by_one, *(PeerDown(two.peer, plane) for plane in Plane))
            await await_events(seen_by_two, *(PeerDown(one.peer, plane) for plane in Plane))
            assert not one.connections()
            assert not two.connections()

    async def test_disconnecting_ends_every_stream_of_that_peer(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            held: list[Stream] = []
            for kind in (streams.MEMBERS, streams.DECODE):
                two.handle(kind, echo)
                held.append(await one.open_stream(two.peer, kind))
            await two.disconnect(one.peer)
            for stream in held:
                await expect_end(stream)
            assert await exchange(one, two, streams.MEMBERS, b"again") == b"again"

    async def test_a_network_that_stops_is_down_for_the_others(self, make_network: MakeNetwork) -> None:
        one, two = make_network(), make_network()
        async with running(one):
            async with running(two):
                introduce(one, two)
                two.handle(streams.MEMBERS, echo)
                events = one.events()
                stream = await one.open_stream(two.peer, streams.MEMBERS)
                await await_events(events, PeerUp(two.peer, Plane.CONTROL))
            await await_events(events, PeerDown(two.peer, Plane.CONTROL))
            await expect_end(stream)
            with pytest.raises(Unavailable):
                await one.open_stream(two.peer, streams.MEMBERS)

    async def test_what_was_sent_before_a_close_arrives_whole_however_late_it_is_read(
        self, make_network: MakeNetwork
    ) -> None:
        payload = bytes(range(256)) * 512  # less than any window
        may_read, received = trio.Event(), list[bytes]()

        async def read_late(stream: Stream) -> None:
            await may_read.wait()
            received.append(await read_all(stream))

        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.DECODE, read_late)
            stream = await one.open_stream(two.peer, streams.DECODE)
            await stream.send(payload)
            await stream.close()
            may_read.set()
            assert await read_all(stream) == b""
            assert received == [payload]

    async def test_a_connection_that_ends_is_never_taken_for_the_end_of_a_stream(
        self, make_network: MakeNetwork
    ) -> None:
        """A reader that has a part of an answer must not believe that it has all of it."""

        async def begin(stream: Stream) -> None:
            await stream.send(b"the beginning")
            await trio.sleep_forever()

        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.DECODE, begin)
            stream = await one.open_stream(two.peer, streams.DECODE)
            assert await stream.receive() == b"the beginning"
            await two.disconnect(one.peer)
            with trio.fail_after(SOON_S), pytest.raises(Disconnected):
                await stream.receive()

    async def test_a_stream_that_nobody_reads_does_not_hold_up_the_others_of_its_connection(
        self, make_network: MakeNetwork
    ) -> None:
        async def read_nothing(stream: Stream) -> None:
            await trio.sleep_forever()

        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.PREFILL, read_nothing)
            two.handle(streams.DECODE, echo)
            stuck = await one.open_stream(two.peer, streams.PREFILL)
            while stuck.send_nowait(bytes(65_536)):
                await trio.lowlevel.checkpoint()
            with trio.fail_after(SOON_S):
                assert await exchange(one, two, streams.DECODE, b"still flowing") == b"still flowing"
            assert len(one.connections()) == 1
            await stuck.reset()

    async def test_whoever_listens_no_longer_refuses_at_once(self, make_network: MakeNetwork) -> None:
        """A process that has ended is told apart from a machine that is silent, and much sooner."""
        one, two = make_network(), make_network()
        async with running(one):
            async with running(two):
                introduce(one, two)
            for plane in Plane:
                with trio.fail_after(limits.DIAL_S / 2), pytest.raises(Disconnected):
                    await one.connect(two.peer, plane)

    async def test_a_peer_that_nobody_told_of_is_unavailable(self, make_network: MakeNetwork) -> None:
        async with running(make_network(), make_network()) as (one, two):
            admit(one, two.peer)
            with pytest.raises(Unavailable):
                await one.open_stream(two.peer, streams.MEMBERS)
            with pytest.raises(Unavailable):
                await one.connect(two.peer, Plane.DATA)

    async def test_what_is_learned_later_replaces_a_wrong_address(self, make_network: MakeNetwork) -> None:
        async with running(make_network(), make_network(), make_network()) as (one, two, three):
            introduce(one, two, three)
            two.handle(streams.MEMBERS, echo)
            there = contact_of(three)
            one.learn(Contact(two.peer, two.static, there.control, there.data, 2))
            with pytest.raises((Unavailable, RemoteFault)):
                await one.open_stream(two.peer, streams.MEMBERS)
            one.learn(contact_of(two, 3))
            assert await exchange(one, two, streams.MEMBERS, b"found") == b"found"

    async def test_addresses_that_are_none_are_passed_over(self, make_network: MakeNetwork) -> None:
        bad = ("not an address", "", "/ip4/300.0.0.1/tcp/x", "/dns4//tcp/1", "\N{SNOWMAN}")
        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, echo)
            there = contact_of(two, 2)
            one.learn(Contact(two.peer, two.static, (*bad, *there.control), bad, 2))
            assert await exchange(one, two, streams.MEMBERS, b"found") == b"found"
            with pytest.raises((Unavailable, RemoteFault)):
                await one.connect(two.peer, Plane.DATA)

    async def test_a_peer_id_that_is_none_can_not_be_reached(self, make_network: MakeNetwork) -> None:
        nobody = PeerId("0" * 40)
        async with members(make_network(), make_network()) as (one, two):
            there = contact_of(two)
            admit(one, two.peer, nobody)
            one.learn(Contact(nobody, bytes(32), there.control, there.data))
            with pytest.raises((Unavailable, RemoteFault)):
                await one.open_stream(nobody, streams.MEMBERS)
            two.handle(streams.MEMBERS, echo)
            assert await exchange(one, two, streams.MEMBERS, b"fine") == b"fine"

    async def test_fifty_streams_run_side_by_side(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            two.handle(streams.MEMBERS, echo)

            async def talk(number: int) -> None:
                message = number.to_bytes(2, "big") * 1_000
                assert await exchange(one, two, streams.MEMBERS, message) == message

            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(talk, number)
            assert len(one.connections()) == 1

    async def test_two_that_dial_each_other_at_once_both_get_through(self, make_network: MakeNetwork) -> None:
        async with members(make_network(), make_network()) as (one, two):
            one.handle(streams.MEMBERS, echo)
            two.handle(streams.MEMBERS, echo)

            async def talk(opener: Network, other: Network) -> None:
                assert await exchange(opener, other, streams.MEMBERS, b"hi") == b"hi"

            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, one, two)
                nursery.start_soon(talk, two, one)

    async def test_a_connection_says_how_it_is_secured_and_who_dialled(
        self, make_network: MakeNetwork
    ) -> None:
        async with members(make_network(), make_network()) as (one, two):
            seen = two.events()
            for plane in Plane:
                await one.connect(two.peer, plane)
            await await_events(seen, *(PeerUp(one.peer, plane) for plane in Plane))
            for network, other, dialled in ((one, two, True), (two, one, False)):
                found = {info.plane: info for info in network.connections()}
                assert set(found) == set(Plane)
                for info in found.values():
                    assert (info.peer, info.security, info.dialled) == (other.peer, SECURITY, dialled)
