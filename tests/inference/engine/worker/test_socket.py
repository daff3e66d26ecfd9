"""The worker's end of the socket: whole requests out of whatever pieces arrive."""

from __future__ import annotations

import math
from collections import deque

import pytest

from inference.engine.worker.socket import JOINED_BYTES_MAX, READ_BYTES, Connection
from inference.engine.worker.wire import PREFIX, CloseCache, Done, Request, Step, encode
from protocols.errors import LocalFault
from protocols.ids import ModelDigest, SessionId
from protocols.placement import LayerRange
from protocols.seams import ShardId
from protocols.tensor import DType, Header, Kind, Numerics

SHARD = ShardId(ModelDigest("ab" * 32), LayerRange(0, 4))
SESSION = SessionId("5e" * 16)
CLOSE = CloseCache(SHARD, SESSION, 0)


class Pipe:
    """Gives what was put in, one piece at a time; nothing is there behind the last one."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = deque(pieces)
        self.sent: list[bytes] = []
        self.waited = 0

    def receive_into(self, buffer: memoryview, wait_s: float) -> int | None:
        self.waited += wait_s > 0
        if not self.pieces:
            return None
        piece = self.pieces.popleft()
        taken = piece[: len(buffer)]
        if piece[len(taken) :]:
            self.pieces.appendleft(piece[len(taken) :])
        buffer[: len(taken)] = taken
        return len(taken)

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    @property
    def connection(self) -> Connection:
        return Connection(self.receive_into, self.send_all)


def step(rows: int) -> Request:
    header = Header(Kind.PREFILL, SESSION, 0, 0, 0, rows, 1024, 0, Numerics.EXACT, DType.F32)
    return Step(SHARD, header, (1,) * rows)


def test_all_that_has_arrived_is_taken_and_then_nothing() -> None:
    pipe = Pipe(encode(1, CLOSE) + encode(2, step(1), 4) + b"body" + encode(3, CLOSE))
    connection = pipe.connection
    taken = [connection.receive(wait_s=0) for _ in range(4)]
    assert taken == [(1, CLOSE, b""), (2, step(1), b"body"), (3, CLOSE, b""), None]
    assert pipe.waited == 0


@pytest.mark.parametrize("size", [1, 5, 11, 13])
def test_a_request_in_pieces_is_whole_when_the_last_one_is_there(size: int) -> None:
    data = encode(7, step(2), 3) + b"abc"
    pipe = Pipe()
    connection = pipe.connection
    for start in range(0, len(data), size):
        assert connection.receive(wait_s=0) is None
        pipe.pieces.append(data[start : start + size])
    assert connection.receive(wait_s=math.inf) == (7, step(2), b"abc")
    assert pipe.waited == 1


def test_a_large_body_is_pulled_in_during_a_turn_and_what_follows_it_is_kept() -> None:
    body = bytes(range(256)) * (READ_BYTES // 64)
    data = encode(1, step(4), len(body)) + body + encode(2, CLOSE)
    pipe = Pipe()
    connection = pipe.connection
    connection.pull()  # nothing has begun to arrive: nothing is asked of the socket
    pipe.pieces.append(data[:1000])
    assert connection.receive(wait_s=0) is None
    for start in range(1000, len(data), 100_000):
        pipe.pieces.append(data[start : start + 100_000])
        connection.pull()
    assert connection.receive(wait_s=0) == (1, step(4), body)
    assert connection.receive(wait_s=0) == (2, CLOSE, b"")


def test_the_end_of_the_stream_is_told_also_in_mid_request() -> None:
    for data in (b"", encode(1, CLOSE)[:20]):
        pipe = Pipe(*([data] if data else []), b"")
        with pytest.raises(EOFError):
            pipe.connection.receive(wait_s=math.inf)


def test_what_weft_cannot_have_written_is_refused() -> None:
    with pytest.raises(LocalFault, match="something else"):
        Pipe(PREFIX.pack(1 << 31, 0, 1)).connection.receive(wait_s=math.inf)


def test_replies_of_a_turn_leave_in_one_piece_but_for_large_bodies() -> None:
    pipe = Pipe()
    pipe.connection.send([(1, Done(), b"a"), (2, Done(), memoryview(b"bc"))])
    large = bytes(JOINED_BYTES_MAX + 1)
    pipe.connection.send([(3, Done(), b"d"), (4, Done(), large), (5, Done(), b"")])
    head = [encode(call, Done(), size) for call, size in ((1, 1), (2, 2), (3, 1), (4, len(large)), (5, 0))]
    assert pipe.sent == [
        head[0] + b"a" + head[1] + b"bc",
        head[2] + b"d" + head[3],
        large,
        head[4],
    ]
