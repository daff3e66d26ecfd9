"""Channels on made-up streams, for tests of what arrives on them."""

from __future__ import annotations

from mesh.host.wire.loopback import loopback_pair
from mesh.rpc import Channel
from protocols import limits, streams
from protocols.errors import Malformed
from protocols.frame import PREFIX, encode_frame
from protocols.hello import encode_hello
from protocols.ids import PeerId
from protocols.liveness import WATCH_CODEC, Ping, Pong, WatchMessage
from protocols.seams import Stream
from simulations.network.internet import NETWORK_ID

PEER = PeerId("12D3KooW" + "p" * 44)
HELLO = encode_frame(encode_hello(NETWORK_ID), limits.HELLO_BYTES_MAX)


def ping_channel(stream: Stream) -> Channel[WatchMessage]:
    return Channel(stream, streams.PING, WATCH_CODEC, NETWORK_ID)


async def echo_pings(channel: Channel[WatchMessage]) -> None:
    while True:
        match await channel.receive():
            case Ping(nonce):
                await channel.send(Pong(nonce))
            case _:
                raise Malformed("only pings are answered")


async def feed(*parts: bytes) -> Stream:
    """A stream on which exactly these bytes arrive, and then the end."""
    near, far = loopback_pair(PEER)
    for part in parts:
        await near.send(part)
    await near.close()
    return far


def frame(body: bytes) -> bytes:
    return PREFIX.pack(len(body)) + body
