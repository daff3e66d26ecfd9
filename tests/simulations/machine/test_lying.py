from __future__ import annotations

import msgspec
import pytest

from node.machine import Readings
from protocols import limits, streams
from protocols.frame import FrameDecoder, encode_frame
from protocols.hello import MINOR, check_hello, encode_hello
from protocols.ids import SessionId
from protocols.liveness import WATCH_CODEC, Ping, Pong, Reached
from protocols.seams import StepResult
from protocols.tensor import DType, Frame, Header, Kind, Numerics, encode_prefix
from simulations.machine.lying import PRAISE, Conduct
from simulations.machine.lying_network import LyingStream, grown, newer_hello
from simulations.machine.lying_worker import altered
from simulations.network.internet import NETWORK_ID

SESSION = SessionId("ab" * 16)


class Sink:
    """Keeps what is sent; takes nothing without waiting while `is_full`."""

    peer = "nobody"

    def __init__(self) -> None:
        self.sent = b""
        self.is_full = False

    async def send(self, data: bytes) -> None:
        self.sent += data

    def send_nowait(self, data: bytes) -> bool:
        if self.is_full:
            return False
        self.sent += data
        return True


def hello() -> bytes:
    return encode_frame(encode_hello(NETWORK_ID), limits.HELLO_BYTES_MAX)


def activation(epoch: int, position: int = 0, rows: int = 1) -> bytes:
    header = Header(Kind.DECODE, SESSION, epoch, 1, position, rows, 8, position, Numerics.EXACT, DType.F32)
    frame = Frame(header, (7,) * rows, bytes(range(32)) * rows)
    return encode_prefix(frame) + bytes(frame.body)


def watch(*messages: Ping | Pong | Reached) -> bytes:
    return b"".join(encode_frame(WATCH_CODEC.encode(each), 1024) for each in messages)


def lying(kind: streams.StreamKind, conduct: Conduct, *, is_ours: bool = True) -> tuple[LyingStream, Sink]:
    sink = Sink()
    return LyingStream(sink, kind, conduct, is_ours=is_ours), sink  # type: ignore[arg-type]


async def test_whoever_is_honest_sends_what_it_was_given() -> None:
    for kind in streams.ALL:
        stream, sink = lying(kind, Conduct())
        sent = activation(1) if kind in (streams.DECODE, streams.PREFILL) else watch(Ping(1))
        await stream.send(hello() + sent)
        assert stream.send_nowait(sent)
        assert sink.sent == hello() + sent + sent


def test_an_honest_machine_wraps_nothing() -> None:
    network, worker = object(), object()
    conduct = Conduct(is_honest=True)
    assert conduct.network(network) is network  # type: ignore[arg-type, comparison-overlap]
    assert conduct.worker(worker) is worker  # type: ignore[arg-type, comparison-overlap]


async def test_frames_of_an_older_epoch_are_sent_again_after_a_reroute_and_once() -> None:
    conduct = Conduct()
    conduct.lies = frozenset({"epoch"})
    stream, sink = lying(streams.DECODE, conduct)
    await stream.send(hello() + activation(1, 0))
    await stream.send(activation(1, 1))
    sink.sent = b""
    await stream.send(activation(2, 1))
    assert sink.sent == activation(2, 1) + activation(1, 0) + activation(1, 1)
    sink.sent = b""
    await stream.send(activation(2, 2))
    assert sink.sent == activation(2, 2)


async def test_withheld_frames_are_swallowed_whole_and_in_between_only() -> None:
    conduct = Conduct()
    stream, sink = lying(streams.PREFILL, conduct)
    large = activation(1, 0, 400)
    await stream.send(hello() + large[:500])
    conduct.lies = frozenset({"withhold"})
    await stream.send(large[500:])
    assert sink.sent == hello() + large, "a frame that was begun is sent to its end"
    await stream.send(large[:500])
    conduct.lies = frozenset()
    await stream.send(large[500:])
    assert sink.sent == hello() + large, "one that was swallowed is swallowed to its end"
    await stream.send(activation(1, 400))
    assert sink.sent == hello() + large + activation(1, 400)


async def test_what_a_full_stream_did_not_take_was_not_sent() -> None:
    stream, sink = lying(streams.DECODE, Conduct())
    await stream.send(hello() + activation(1, 0, 3)[:100])
    sink.is_full = True
    assert not stream.send_nowait(activation(1, 0, 3)[100:])
    await stream.send(activation(1, 0, 3)[100:])
    await stream.send(activation(1, 3))
    assert sink.sent == hello() + activation(1, 0, 3) + activation(1, 3)


async def test_withheld_are_credits_and_testimonies_and_not_pongs() -> None:
    conduct = Conduct()
    conduct.lies = frozenset({"withhold"})
    pings, sink = lying(streams.PING, conduct, is_ours=False)
    await pings.send(hello() + watch(Pong(1), Reached(2, True), Pong(3)))
    assert sink.sent == hello() + watch(Pong(1), Pong(3))
    returned, sink = lying(streams.DECODE, conduct, is_ours=False)
    await returned.send(hello() + encode_frame(b"credit", 100))
    assert sink.sent == hello()


async def test_a_newer_release_is_understood() -> None:
    conduct = Conduct()
    conduct.minor = MINOR + 1
    stream, sink = lying(streams.PING, conduct)
    await stream.send(hello() + watch(Ping(1)))
    assert stream.send_nowait(watch(Ping(2)))
    first, *others = FrameDecoder(1024).feed(sink.sent)
    assert check_hello(first, NETWORK_ID).minor == MINOR + 1
    assert len(msgspec.msgpack.decode(first)) == len(msgspec.msgpack.decode(encode_hello(NETWORK_ID))) + 1
    assert [WATCH_CODEC.decode(body) for body in others] == [Ping(1), Ping(2)]
    assert [len(msgspec.msgpack.decode(body)) for body in others] == [3, 3], "tag, nonce and something new"


def test_what_would_grow_past_its_limit_stays_as_it_is() -> None:
    message = watch(Ping(1))
    assert grown(message, len(message) - 4) == message
    assert newer_hello(hello(), 1) != hello()


@pytest.mark.parametrize("dtype", DType)
def test_altered_rows_are_rows_still_and_others(dtype: DType) -> None:
    header = Header(Kind.DECODE, SESSION, 0, 1, 0, 2, 4, 0, Numerics.EXACT, dtype)
    row = bytes(range(4 * dtype.item_bytes))
    frame = Frame(header, (1, 2), row * 2)
    changed = altered(StepResult(row * 2, 6, 1.0), frame)
    assert changed.body == row[dtype.item_bytes :] + row[: dtype.item_bytes] + row
    assert changed.token == 7


def test_praise_is_told_for_as_long_as_it_is_a_lie() -> None:
    conduct = Conduct()
    read = conduct.readings(lambda: Readings(1, 2, 3, 0.9))
    assert read() == Readings(1, 2, 3, 0.9)
    conduct.lies = frozenset({"health"})
    assert read() == PRAISE
