"""The bytes under the encryption: the socket itself where there is one, without the locks and copies above it.

Reading and writing go through the file descriptor, which trio has made non-blocking: one system call each, and no turn of the
scheduler where nothing has to be waited for.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final, Protocol

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection

from protocols import limits

READ_BYTES: Final = 256 << 10
_KEPT_BYTES: Final = 64 << 10

# One for all sockets: nothing is awaited between filling it and having taken out what is in it.
_ARRIVED: Final = memoryview(bytearray(READ_BYTES + _KEPT_BYTES))


class Pipe(Protocol):
    """Raises any of `framing.RAW_ERRORS` when the connection has ended; one task reads, one at a time waits to write."""

    async def receive(self, kept: bytes) -> memoryview | None:
        """`kept` (less than 64 KiB) and at least one byte behind it, to be used before anything is awaited; None at the end."""

    def send_now(self, data: memoryview) -> int:
        """How much of it could be sent without waiting."""

    async def send(self, data: bytes) -> int:
        """Wait until some can be sent, and send that: how much it was."""


class SocketPipe:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket
        with suppress(OSError):  # it may have ended already, which the first read tells
            # What the kernel has, no priority reaches any more.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.UNSENT_BYTES_MAX)

    async def receive(self, kept: bytes) -> memoryview | None:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                count = os.readv(self._socket.fileno(), (_ARRIVED[len(kept) :],))
            except BlockingIOError:
                continue
            if not count:
                return None
            _ARRIVED[: len(kept)] = kept
            return _ARRIVED[: len(kept) + count]

    def send_now(self, data: memoryview) -> int:
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0

    async def send(self, data: bytes) -> int:
        await trio.lowlevel.wait_writable(self._socket)
        return self.send_now(memoryview(data))


class RawPipe:
    """Whatever else libp2p makes connections of."""

    def __init__(self, raw: IRawConnection) -> None:
        self._raw = raw

    async def receive(self, kept: bytes) -> memoryview | None:
        data = await self._raw.read(READ_BYTES)
        return memoryview(kept + data) if data else None

    def send_now(self, data: memoryview) -> int:
        return 0

    async def send(self, data: bytes) -> int:
        await self._raw.write(data)
        return len(data)


def pipe_of(raw: IRawConnection) -> Pipe:
    if isinstance(raw, RawConnection) and isinstance(raw.stream, TrioTCPStream):
        assert isinstance(raw.stream.stream, trio.SocketStream)
        return SocketPipe(raw.stream.stream)
    return RawPipe(raw)
