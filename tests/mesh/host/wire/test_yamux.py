"""The yamux machine: what it says on the wire, what it takes, and what it does not."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.host.wire import yamux
from mesh.host.wire.substream import Substream
from mesh.host.wire.yamux import ACK, DATA, FIN, GO_AWAY, HEAD, PING, RST, SYN, WINDOW, Yamux
from protocols import limits
from protocols.errors import Disconnected, Malformed, Overloaded
from protocols.ids import PeerId
from protocols.streams import Priority

PEER = PeerId("the peer")
WINDOW_BYTES = limits.STREAM_WINDOW_BYTES
FIXED_BYTES = (
    256 << 10
)  # streams that cost their opener 12 bytes each, and no more than STREAMS_INBOUND_MAX of them


def frame(kind: int, flags: int, number: int, length: int = 0, body: bytes = b"") -> bytes:
    return HEAD.pack(0, kind, flags, number, length or len(body)) + body


def data(number: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, number, body=body)


def acceptor() -> Yamux:
    return Yamux(PEER, is_initiator=False)


def answers(machine: Yamux) -> list[tuple[int, int, int, int]]:
    """Type, flags, stream and length of what is to be answered; and it is taken."""
    taken, machine.answers = bytes(machine.answers), bytearray()
    return [HEAD.unpack_from(taken, at)[1:] for at in range(0, len(taken), HEAD.size)]


def accept(machine: Yamux, number: int = 1) -> Substream:
    ((stream,), _) = machine.receive(frame(WINDOW, SYN, number), 0)
    machine.answers.clear()
    return stream


def send(machine: Yamux, stream: Substream, body: bytes) -> bytes:
    return machine.head_of(stream, len(body)) + body


# On the wire -----------------------------------------------------------------------------------------------------------


def test_the_frames_of_a_streams_life_are_those_of_the_specification() -> None:
    machine = Yamux(PEER, is_initiator=True)
    stream = machine.open()
    assert machine.answers.hex() == "000100010000000100000000"
    assert machine.head_of(stream, 5).hex() == "000000000000000100000005"
    machine.answers.clear()
    machine.end(stream)
    assert machine.answers.hex() == "000000040000000100000000"
    second = machine.open()
    machine.answers.clear()
    machine.reset(second)
    assert machine.answers.hex() == "000100080000000300000000"
    machine.answers.clear()
    machine.leave()
    assert machine.answers.hex() == "000300000000000000000000"


def test_a_stream_of_the_peer_is_acknowledged_and_a_ping_answered_with_its_value() -> None:
    machine = acceptor()
    (opened, _) = machine.receive(frame(WINDOW, SYN, 1) + frame(PING, SYN, 0, 77), 0)
    assert [stream.number for stream in opened] == [1]
    assert answers(machine) == [(WINDOW, ACK, 1, 0), (PING, ACK, 0, 77)]
    machine.receive(frame(PING, ACK, 0, 78), 0)
    assert answers(machine) == []


def test_each_side_numbers_its_own_streams() -> None:
    assert [Yamux(PEER, is_initiator=True).open().number, acceptor().open().number] == [1, 2]


def test_a_stream_may_be_opened_with_data_and_ended_in_the_same_frame() -> None:
    machine = acceptor()
    ((stream,), _) = machine.receive(data(1, b"all of it", SYN | FIN), 0)
    assert machine.read(stream, 100) == b"all of it"
    assert stream.has_ended_there
    assert not stream.is_gone


@given(st.lists(st.integers(1, 40)), st.binary(max_size=600))
def test_frames_may_arrive_in_pieces_of_any_size(cuts: list[int], body: bytes) -> None:
    machine = acceptor()
    wire = frame(WINDOW, SYN, 1) + data(1, body) + frame(WINDOW, SYN, 3) + data(1, b"", FIN)
    at, streams = 0, []
    for size in [*cuts, len(wire)]:
        opened, _ = machine.receive(wire[at : at + size], 0)
        streams += opened
        at += size
    assert [stream.number for stream in streams] == [1, 3]
    assert machine.read(streams[0], 1000) == body
    assert streams[0].has_ended_there


# Windows ---------------------------------------------------------------------------------------------------------------


def test_the_peer_hears_of_reading_once_half_of_its_window_was_read_and_gets_twice_as_much() -> None:
    machine = acceptor()
    stream = accept(machine)
    machine.receive(data(1, bytes(WINDOW_BYTES)), 0)
    half = WINDOW_BYTES // 2
    while stream.read_bytes < half - 1000:
        machine.read(stream, 1000)
    assert answers(machine) == []
    read = stream.read_bytes + 1000
    machine.read(stream, 1000)
    assert answers(machine) == [(WINDOW, 0, 1, read + WINDOW_BYTES)]


@pytest.mark.parametrize(
    ("priority", "window_max"),
    [
        (Priority.URGENT, limits.URGENT_WINDOW_BYTES_MAX),
        (Priority.NORMAL, limits.STREAM_WINDOW_BYTES_MAX),
        (Priority.BULK, limits.STREAM_WINDOW_BYTES_MAX),
    ],
)
def test_a_window_grows_to_its_bound_and_then_only_by_what_was_read(
    priority: Priority, window_max: int
) -> None:
    machine = acceptor()
    stream = accept(machine)
    stream.priority = priority
    granted = sent = WINDOW_BYTES
    machine.receive(data(1, bytes(sent)), 0)
    for _ in range(40):
        while machine.read(stream, 1 << 20):
            pass
        size = sum(length for _, _, _, length in answers(machine))
        granted += size
        sent += size
        machine.receive(data(1, bytes(size)), 0)
    assert stream.target_bytes == window_max
    assert stream.window_bytes + stream.inbox.size_bytes + stream.read_bytes == window_max


def test_the_windows_of_a_connection_grow_no_further_than_allowed_together() -> None:
    machine = acceptor()
    for number in range(1, 201, 2):
        accept(machine, number)
    for _ in range(6):
        for stream in list(machine.streams.values()):
            machine.receive(data(stream.number, bytes(stream.window_bytes)), 0)
            while machine.read(stream, 1 << 22):
                pass
    grown = sum(stream.target_bytes - WINDOW_BYTES for stream in machine.streams.values())
    assert grown == limits.WINDOW_GROWTH_BYTES_MAX
    for stream in list(machine.streams.values()):
        machine.reset(stream)
    fresh = accept(machine, 999)
    machine.receive(data(999, bytes(WINDOW_BYTES)), 0)
    while machine.read(fresh, 1 << 20):
        pass
    assert fresh.target_bytes == 2 * WINDOW_BYTES


def test_no_more_is_sent_than_the_peer_has_room_for() -> None:
    machine = acceptor()
    stream = machine.open()
    machine.head_of(stream, WINDOW_BYTES)
    with pytest.raises(AssertionError):
        machine.head_of(stream, 1)
    _, touched = machine.receive(frame(WINDOW, ACK, 2, 100), 0)
    assert touched == [stream]
    assert stream.credit_bytes == 100


def test_single_bytes_take_no_more_memory_than_a_few_times_themselves() -> None:
    machine = acceptor()
    stream = accept(machine)
    wire = data(1, b"x") * 50_000
    tracemalloc.start()
    machine.receive(wire, 0)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4 * 50_000
    assert peak < 4 * len(wire)
    assert stream.inbox.size_bytes == 50_000


# The end of streams ------------------------------------------------------------------------------------------------------


def test_a_stream_that_has_ended_on_both_sides_is_forgotten_and_what_came_is_still_read() -> None:
    machine = acceptor()
    stream = accept(machine)
    machine.receive(data(1, b"last words") + data(1, b"", FIN), 0)
    machine.end(stream)
    assert machine.streams == {}
    assert machine.read(stream, 100) == b"last words"
    machine.reset(stream)
    assert answers(machine) == [(DATA, FIN, 1, 0)]


@pytest.mark.parametrize("kind", [DATA, WINDOW])
def test_the_end_and_a_reset_come_on_either_kind_of_frame(kind: int) -> None:
    machine = acceptor()
    ended, broken = accept(machine, 1), accept(machine, 3)
    machine.receive(data(3, b"lost") + frame(kind, FIN, 1) + frame(kind, RST, 3), 0)
    assert (ended.has_ended_there, ended.was_reset) == (True, False)
    assert broken.was_reset
    assert broken.inbox.size_bytes == 0
    assert list(machine.streams) == [1]


def test_after_a_reset_what_is_under_way_is_ignored_up_to_the_window_and_no_further() -> None:
    machine = acceptor()
    stream = accept(machine)
    machine.receive(data(1, bytes(1000)), 0)
    machine.reset(stream)
    assert machine.receive(data(1, bytes(WINDOW_BYTES - 1000)) + frame(WINDOW, 0, 1, 5), 0) == ([], [])
    with pytest.raises(Malformed, match="not open"):
        machine.receive(data(1, b"x"), 0)


def test_a_reset_in_the_middle_of_a_frame_skips_the_rest_of_it() -> None:
    machine = acceptor()
    stream = accept(machine)
    machine.receive(data(1, bytes(1000))[:500], 0)
    machine.reset(stream)
    machine.receive(data(1, bytes(1000))[500:] + frame(WINDOW, SYN, 3), 0)
    assert stream.inbox.size_bytes == 0
    assert list(machine.streams) == [3]


def test_a_peer_that_goes_away_gets_no_new_streams_and_keeps_those_it_has() -> None:
    machine = acceptor()
    stream = accept(machine)
    machine.receive(frame(GO_AWAY, 0, 0) + data(1, b"more"), 0)
    assert machine.is_peer_leaving
    assert machine.read(stream, 10) == b"more"
    with pytest.raises(Disconnected):
        machine.open()


def test_too_many_own_streams_are_an_error_and_one_that_ends_makes_room() -> None:
    machine = acceptor()
    streams = [machine.open() for _ in range(limits.STREAMS_PER_CONNECTION_MAX)]
    with pytest.raises(Overloaded, match="close some"):
        machine.open()
    machine.reset(streams[0])
    machine.open()


# Misbehaviour ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (HEAD.pack(1, DATA, 0, 1, 0), "version 1"),
        (frame(4, 0, 0), "no frames of type 4"),
        (frame(PING, SYN, 1), "type 2 for stream 1"),
        (frame(GO_AWAY, 0, 1), "type 3 for stream 1"),
        (frame(DATA, SYN, 0), "stream 0"),
        (frame(WINDOW, SYN, 2), "not the peer's to open"),
        (frame(WINDOW, SYN, 1) * 2, "not the peer's to open"),
        (frame(DATA, 0, 1, 1), "not open"),
        (frame(DATA, 0, 2), "not open"),
        (frame(DATA, SYN, 1, WINDOW_BYTES + 1), "whose window is"),
        (frame(DATA, SYN, 1, (1 << 32) - 1), "whose window is"),
        (frame(WINDOW, SYN | FIN, 1) + data(1, b"x"), "not open"),
        (frame(WINDOW, SYN, 1, (1 << 32) - 1), "overflows"),
    ],
)
def test_a_peer_that_breaks_a_rule_is_told_to_go(wire: bytes, reason: str) -> None:
    machine = acceptor()
    with pytest.raises(Malformed, match=reason) as raised:
        machine.receive(wire, 0)
    assert raised.value.peer == PEER
    assert answers(machine)[-1] == (GO_AWAY, 0, 0, yamux.PROTOCOL_ERROR)
    with pytest.raises(Disconnected):
        machine.open()


def test_more_than_its_window_in_several_frames_is_too_much() -> None:
    machine = acceptor()
    accept(machine)
    machine.receive(data(1, bytes(WINDOW_BYTES)), 0)
    with pytest.raises(Malformed, match="window is 0"):
        machine.receive(data(1, b"x"), 0)


def test_streams_beyond_the_limit_are_reset_and_their_first_data_ignored() -> None:
    machine = acceptor()
    numbers = range(1, 2 * limits.STREAMS_INBOUND_MAX, 2)
    machine.receive(b"".join(frame(WINDOW, SYN, number) for number in numbers), 0)
    machine.answers.clear()
    opened, _ = machine.receive(data(9_001, b"hello?", SYN) + data(9_001, b"anyone?"), 0)
    assert opened == []
    assert answers(machine) == [(WINDOW, RST, 9_001, 0)]
    assert len(machine.streams) == limits.STREAMS_INBOUND_MAX


@pytest.mark.parametrize(
    ("one", "allowed", "reason"),
    [
        (lambda number: frame(PING, SYN, 0, number), limits.WIRE_PINGS_PER_S_MAX, "flood of pings"),
        (
            lambda number: frame(WINDOW, SYN, 2 * number + 1) + frame(WINDOW, RST, 2 * number + 1),
            limits.STREAMS_PER_S_MAX,
            "flood of streams",
        ),
    ],
)
def test_a_flood_is_so_many_in_one_second(one: object, allowed: int, reason: str) -> None:
    assert callable(one)
    machine = acceptor()
    for second in range(2):
        for number in range(allowed):
            machine.receive(one(second * allowed + number), second)
            machine.answers.clear()
    with pytest.raises(Malformed, match=reason):
        machine.receive(one(2 * allowed), 1.9)


def test_answers_that_nobody_reads_are_bounded() -> None:
    machine = acceptor()
    with pytest.raises(Malformed, match="than is read"):
        for number in range(1, 1_000_000, 2):
            machine.receive(frame(WINDOW, SYN, number) + frame(WINDOW, RST, number), number // 2_000)
    assert len(machine.answers) <= limits.ANSWERS_BYTES_MAX + 2 * HEAD.size


FRAMES = st.one_of(
    st.builds(
        lambda kind, flags, number, body: frame(kind, flags, number, body=body),
        st.sampled_from([DATA, WINDOW]),
        st.integers(0, 15),
        st.integers(0, 7),
        st.binary(max_size=50),
    ),
    st.builds(frame, st.integers(0, 5), st.integers(0, 15), st.integers(0, 7), st.integers(0, 1 << 19)),
    st.binary(max_size=40),
)


@settings(max_examples=400)
@given(st.lists(FRAMES, max_size=40), st.booleans())
def test_arbitrary_bytes_raise_nothing_else_and_hold_little(pieces: list[bytes], is_initiator: bool) -> None:
    machine = Yamux(PEER, is_initiator)
    own = [machine.open() for _ in range(3)]
    tracemalloc.start()
    taken = 0
    try:
        for piece in pieces:
            taken += len(piece)
            opened, touched = machine.receive(piece, 0)
            for stream in opened:
                machine.end(stream)
            for stream in touched:
                machine.read(stream, 3)
    except Malformed:
        pass
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held <= 4 * taken + FIXED_BYTES
    inboxes = [*machine.streams.values(), *own]
    assert all(stream.inbox.size_bytes <= WINDOW_BYTES for stream in inboxes)
