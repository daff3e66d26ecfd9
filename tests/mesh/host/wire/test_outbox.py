"""Whose bytes go next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.host.wire.outbox import Outbox, Parcel
from mesh.host.wire.substream import Substream
from protocols import limits
from protocols.streams import Priority

CHUNK = limits.WIRE_CHUNK_BYTES


def substream(number: int, priority: Priority = Priority.NORMAL, credit: int = 1 << 20) -> Substream:
    return Substream(number, is_ours=True, priority=priority, credit_bytes=credit)


def parcel(stream: Substream, size: int) -> Parcel:
    return Parcel(stream, memoryview(bytes(size)))


def take(outbox: Outbox) -> tuple[int, int] | None:
    """The stream and size of the next chunk, whose credit is spent."""
    taken = outbox.take()
    if taken is None:
        return None
    stream, chunk = taken
    stream.credit_bytes -= len(chunk)
    return stream.number, len(chunk)


def test_decode_goes_before_prefill_before_weights_at_the_next_chunk() -> None:
    outbox = Outbox()
    weights, prefill, decode = (substream(n, p) for n, p in zip((1, 2, 3), reversed(Priority), strict=True))
    outbox.add(parcel(weights, 3 * CHUNK))
    assert take(outbox) == (1, CHUNK)
    outbox.add(parcel(prefill, 2 * CHUNK))
    assert take(outbox) == (2, CHUNK)
    outbox.add(parcel(decode, 100))
    assert [take(outbox) for _ in range(5)] == [(3, 100), (2, CHUNK), (1, CHUNK), (1, CHUNK), None]


def test_streams_of_one_priority_take_turns() -> None:
    outbox = Outbox()
    for number in (1, 2):
        outbox.add(parcel(substream(number), 2 * CHUNK))
    assert [take(outbox) for _ in range(5)] == [(1, CHUNK), (2, CHUNK), (1, CHUNK), (2, CHUNK), None]


def test_a_stream_without_credit_waits_and_holds_up_nobody() -> None:
    outbox = Outbox()
    urgent, other = substream(1, Priority.URGENT, credit=10), substream(2)
    outbox.add(parcel(urgent, 30))
    outbox.add(parcel(other, 5))
    assert [take(outbox), take(outbox), take(outbox)] == [(1, 10), (2, 5), None]
    assert not outbox.has_something
    urgent.credit_bytes = 15
    outbox.offer(urgent)
    outbox.offer(urgent)
    assert outbox.has_something
    assert [take(outbox), take(outbox)] == [(1, 15), None]
    urgent.credit_bytes = 100
    outbox.offer(urgent)
    assert [take(outbox), take(outbox)] == [(1, 5), None]
    assert outbox.finished == [other, urgent]


def test_what_is_withdrawn_or_dropped_is_not_sent() -> None:
    outbox = Outbox()
    one, two = substream(1), substream(2)
    first, second, third = parcel(one, 2 * CHUNK), parcel(one, 7), parcel(two, 9)
    for each in (first, second, third):
        outbox.add(each)
    assert take(outbox) == (1, CHUNK)
    outbox.withdraw(first)
    outbox.withdraw(first)
    outbox.drop(two)
    assert [take(outbox), take(outbox)] == [(1, 7), None]
    assert outbox.finished == [one]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 200_000)), max_size=12), st.integers(5_000, 100_000)
)
def test_every_byte_is_taken_once_in_the_order_of_its_stream(
    posted: list[tuple[int, int]], credit: int
) -> None:
    outbox = Outbox()
    streams = [substream(number, Priority(number % 3), credit=0) for number in range(5)]
    expected: dict[int, bytes] = dict.fromkeys(range(5), b"")
    for mark, (number, size) in enumerate(posted):
        body = bytes([mark]) * size
        expected[number] += body
        outbox.add(Parcel(streams[number], memoryview(body)))
    assert outbox.take() is None
    got: dict[int, bytes] = dict.fromkeys(range(5), b"")
    while got != expected:
        for stream in streams:
            stream.credit_bytes = credit
            outbox.offer(stream)
        while (taken := outbox.take()) is not None:
            stream, chunk = taken
            assert 0 < len(chunk) <= min(CHUNK, stream.credit_bytes)
            stream.credit_bytes -= len(chunk)
            got[stream.number] += bytes(chunk)
    assert not outbox.has_something
    assert len(outbox.finished) == len(posted)
