"""What a foreign peer may open here, each stream with an end: identify, ping and echo.

Ping is an echo of 32 bytes at a time, and an echo of however many answers it just as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from mesh.host.foreign import identify
from mesh.host.wire.stream import MuxedStream
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import Disconnected, Malformed, Oversized
from protocols.seams import Randomness

PING_ID: Final = "/ipfs/ping/1.0.0"
ECHO_ID: Final = "/weft/echo/1"
PROTOCOLS: Final = (identify.PROTOCOL_ID, PING_ID, ECHO_ID)
PING_BYTES: Final = 32

Service = Callable[[MuxedStream], Awaitable[None]]
"""Serves one stream to the peer's end of it; whoever calls it closes or resets the stream."""


def services(identification: Callable[[MuxedStream], bytes]) -> Mapping[str, Service]:
    """By protocol id; `identification` is the identify message for whoever has opened a stream."""

    async def tell(stream: MuxedStream) -> None:
        with deadline(limits.FOREIGN_IDLE_S, "an identify message was not read"):
            await stream.send(identification(stream))
        await stream.close()
        await _hear(stream, _forget)

    async def echo(stream: MuxedStream) -> None:
        await _hear(stream, stream.send)

    return {identify.PROTOCOL_ID: tell, PING_ID: echo, ECHO_ID: echo}


async def _hear(stream: MuxedStream, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Everything up to the peer's end of it. Raises `Oversized`, `TimedOut` and `Disconnected`."""
    left_bytes = limits.FOREIGN_STREAM_BYTES_MAX
    while True:
        with deadline(limits.FOREIGN_IDLE_S, "nothing came or was taken"):
            data = await stream.receive()
            if not data:
                return
            left_bytes -= len(data)
            if left_bytes < 0:
                raise Oversized(
                    f"more than {limits.FOREIGN_STREAM_BYTES_MAX} bytes on one stream", stream.peer
                )
            await take(data)


async def _forget(data: bytes) -> None:
    """What comes with a question that has no parameters."""


async def ask_ping(stream: MuxedStream, randomness: Randomness, now: Callable[[], float]) -> float:
    """One round trip in milliseconds. Raises `Malformed` for another answer than what was sent, and `Disconnected`."""
    sent, since = randomness.token_bytes(PING_BYTES), now()
    await stream.send(sent)
    if await stream.read_exactly(PING_BYTES) != sent:
        raise Malformed("another answer to a ping than what it said", stream.peer)
    return (now() - since) * 1000


async def ask_identity(stream: MuxedStream) -> identify.Identification:
    """Raises `Malformed` and `Oversized`, and `Disconnected`."""
    try:
        return await identify.read(stream)
    except Disconnected as error:
        raise Disconnected(f"{stream.peer} did not say what it is") from error
