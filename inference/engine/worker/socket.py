"""The worker's end of the socketpair: whole requests in, replies out.

`receive` takes what has arrived and waits only as long as it is told to, so that requests come in between two turns. What has come of a
request is kept until the rest is there; `pull` goes on with it in mid-turn, because a body may be larger than what the kernel
holds for a socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final

from inference.engine.batching.waiting import Body
from inference.engine.worker.wire import PREFIX, REQUESTS, Reply, Request, encode, parse_prefix
from protocols import limits

READ_BYTES: Final = 64 * limits.KIB  # a decode row with its header in one system call
JOINED_BYTES_MAX: Final = 64 * limits.KIB  # below this, one copy is cheaper than a second system call

Arrived = tuple[int, Request, bytearray]
"""A call, what is asked, and its body."""


class Connection:
    """`receive_into(buffer, wait_s)` is the socket's, None where nothing has come in that time; `send_all` waits."""

    def __init__(
        self, receive_into: Callable[[memoryview, float], int | None], send_all: Callable[[Body], None]
    ) -> None:
        self._receive_into = receive_into
        self._send_all = send_all
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._start = self._end = 0  # what of the buffer was received and not yet taken
        self._wait_s = 0.0
        self._is_partial = False
        self._arrived: deque[Arrived] = deque()
        self._coming = self._requests()

    def receive(self, *, wait_s: float) -> Arrived | None:
        """The next request; None if there is none within that time. Raises `EOFError` when the daemon has closed its end or is gone."""
        if self._arrived:
            return self._arrived.popleft()
        self._wait_s = wait_s
        return next(self._coming)

    def pull(self) -> None:
        """Take more of a request that has come in part."""
        self._wait_s = 0.0
        while self._is_partial and (arrived := next(self._coming)) is not None:
            self._arrived.append(arrived)

    def send(self, replies: Sequence[tuple[int, Reply, Body]]) -> None:
        small: list[Body] = []
        for call, reply, body in replies:
            small.append(encode(call, reply, len(body)))
            if len(body) <= JOINED_BYTES_MAX:
                small.append(body)
            else:
                self._send_all(b"".join(small))
                self._send_all(body)
                small.clear()
        if small:
            self._send_all(b"".join(small))

    def _requests(self) -> Iterator[Arrived | None]:
        """One after the other, and None whenever something is missing."""
        while True:
            prefix = bytearray(PREFIX.size)
            yield from self._fill(prefix)
            header_bytes, body_bytes, call = parse_prefix(prefix)
            header, body = bytearray(header_bytes), bytearray(body_bytes)
            yield from self._fill(header)
            yield from self._fill(body)
            self._is_partial = False
            yield call, REQUESTS.decode(header), body

    def _fill(self, data: bytearray) -> Generator[None, None, None]:
        filled = 0
        while filled < len(data):
            if self._start == self._end:
                if len(data) - filled >= READ_BYTES:  # a large body goes where it belongs
                    filled += yield from self._receive(memoryview(data)[filled:])
                    continue
                count = yield from self._receive(self._buffer)
                self._start, self._end = 0, count
            taken = min(len(data) - filled, self._end - self._start)
            data[filled : filled + taken] = self._buffer[self._start : self._start + taken]
            filled += taken
            self._start += taken
            self._is_partial = True

    def _receive(self, buffer: memoryview) -> Generator[None, None, int]:
        while (count := self._receive_into(buffer, self._wait_s)) is None:
            yield None
        if count == 0:
            raise EOFError
        return count
