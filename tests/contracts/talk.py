"""What tests of networks say to each other, through the seam alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

import pytest
import trio

from protocols.errors import Disconnected, Unauthenticated
from protocols.ids import PeerId
from protocols.membership import Contact
from protocols.seams import Network, PeerEvent, Stream
from protocols.streams import Plane, StreamKind

TEST_S = 30.0
SOON_S = 10.0


def contact_of(network: Network, sequence: int = 1) -> Contact:
    """What others must know to dial a running network."""
    return Contact(
        network.peer,
        network.static,
        network.addresses(Plane.CONTROL),
        network.addresses(Plane.DATA),
        sequence,
    )


class ListedDoor:
    """Lets in who is on its list, and strangers if they are welcome. What is shown counts for nothing."""

    def __init__(self, members: Iterable[PeerId], *, strangers: bool = False) -> None:
        self._members = frozenset(members)
        self._welcomes_strangers = strangers

    def show(self) -> bytes:
        return b""

    def judge(self, peer: PeerId, shown: bytes) -> bool:
        if peer not in self._members and not self._welcomes_strangers:
            raise Unauthenticated("it is not on the list", peer)
        return peer in self._members


class ShowingDoor:
    """Shows what it is given, and notes what it is shown; lets everybody in, or nobody."""

    def __init__(self, shown: bytes = b"", refusal: str | None = None) -> None:
        self._shown = shown
        self._refusal = refusal
        self.judged: set[tuple[PeerId, bytes]] = set()

    def show(self) -> bytes:
        return self._shown

    def judge(self, peer: PeerId, shown: bytes) -> bool:
        self.judged.add((peer, shown))
        if self._refusal:
            raise Unauthenticated(self._refusal, peer)
        return True


def admit(network: Network, *members: PeerId, strangers: bool = False) -> None:
    """Exactly these are members for `network` from now on."""
    network.guard(ListedDoor(members, strangers=strangers))


def introduce(*networks: Network) -> None:
    """Everybody learns and admits everybody else."""
    for network in networks:
        others = [other for other in networks if other is not network]
        for other in others:
            network.learn(contact_of(other))
        admit(network, *(other.peer for other in others))


@asynccontextmanager
async def running(*networks: Network) -> AsyncIterator[tuple[Network, ...]]:
    """All of them run while the context is open, unknown to each other."""
    with trio.fail_after(TEST_S):
        async with AsyncExitStack() as stack:
            for network in networks:
                await stack.enter_async_context(network.run())
            yield networks


@asynccontextmanager
async def members(*networks: Network) -> AsyncIterator[tuple[Network, ...]]:
    """All of them run and are members of one mesh while the context is open."""
    async with running(*networks):
        introduce(*networks)
        yield networks


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def read_all(stream: Stream) -> bytes:
    received = bytearray()
    while data := await stream.receive():
        received += data
    return bytes(received)


async def exchange(network: Network, peer: Network, kind: StreamKind, message: bytes) -> bytes:
    """Send a message, close, and read the answer to its end."""
    stream = await network.open_stream(peer.peer, kind)
    await stream.send(message)
    await stream.close()
    return await read_all(stream)


async def send_forever(stream: Stream) -> NoReturn:
    while True:
        await stream.send(bytes(65_536))


async def expect_end(stream: Stream) -> None:
    """The stream is dead in both directions: reading raises, and so does writing soon after."""
    with trio.fail_after(SOON_S):
        with pytest.raises(Disconnected):
            await read_all(stream)
        with pytest.raises(Disconnected):
            await send_forever(stream)


async def await_events(events: AsyncIterator[PeerEvent], *expected: PeerEvent) -> None:
    """The next events are exactly these, in any order."""
    with trio.fail_after(SOON_S):
        seen = [await anext(events) for _ in expected]
    assert set(seen) == set(expected)
