"""How a node's failure detector reaches the others: telling them, redialling, asking one after another, and answering.

Every call ends by itself within its deadline and raises nothing: what went wrong is an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog
import trio

from mesh.rpc import Channel, ask, deadline, dial
from protocols import limits, streams
from protocols.errors import Disconnected, Malformed, RemoteFault, Unavailable
from protocols.ids import NetworkId, PeerId, shortened
from protocols.liveness import (
    WATCH_CODEC,
    Alive,
    Inquire,
    Left,
    LivenessItem,
    Ping,
    Pong,
    Reached,
    Suspect,
    WatchMessage,
)
from protocols.seams import Network
from protocols.streams import Plane

log = structlog.get_logger()

TELL_S: Final = limits.REFUTE_S  # what comes later than that is too late
PING_FOR_ANOTHER_S: Final = 0.75 * limits.INQUIRY_S  # and the answer has to get back


class Messenger:
    """Over one network. `hear(author, item)` is given what others tell; `is_member` says for whom this node asks."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        hear: Callable[[PeerId, LivenessItem], None],
        is_member: Callable[[PeerId], bool],
    ) -> None:
        self._network = network
        self._network_id = network_id
        self._hear = hear
        self._is_member = is_member

    async def tell(self, peer: PeerId, items: tuple[LivenessItem, ...]) -> None:
        try:
            with deadline(TELL_S, "not heard"):
                async with self._dial(peer) as channel:
                    for item in items:
                        await channel.send(item)
        except (Unavailable, RemoteFault) as error:
            log.debug("a member was not told", peer=shortened(peer), reason=str(error))

    async def is_refused(self, peer: PeerId) -> bool:
        """Dials; whether nobody listens there. Silence is no refusal."""
        try:
            with deadline(limits.PROBE_S, "no connection"):
                await self._network.connect(peer, Plane.CONTROL)
        except Disconnected:
            return True
        except (Unavailable, RemoteFault) as error:
            log.debug("a redial failed", peer=shortened(peer), reason=str(error))
        return False

    async def ask_after(self, via: PeerId, subject: PeerId, nonce: int) -> bool | None:
        """Whether `via` reaches `subject`; None if it does not say."""
        try:
            with deadline(limits.INQUIRY_S, "no answer"):
                async with self._dial(via) as channel:
                    match await ask(channel, Inquire(subject, nonce), Reached):
                        case Reached(asked, answered) if asked == nonce:
                            return answered
                        case _:
                            raise Malformed("an answer to another question", via)
        except (Unavailable, RemoteFault) as error:
            log.debug("an inquiry failed", via=shortened(via), reason=str(error))
            return None

    async def disconnect(self, peer: PeerId) -> None:
        with trio.move_on_after(limits.LEAVE_S):
            await self._network.disconnect(peer)

    async def serve(self, channel: Channel[WatchMessage]) -> None:
        """The other side of all this, until the stream ends."""
        with deadline(limits.WATCH_IDLE_S, f"{channel.peer} asks nothing more") as patience:
            while True:
                try:
                    message = await channel.receive()
                except Disconnected:
                    return
                await self._answer(channel, message)
                patience.renew()

    async def _answer(self, channel: Channel[WatchMessage], message: WatchMessage) -> None:
        match message:
            case Ping(nonce):
                if not channel.send_nowait(Pong(nonce)):
                    with _patient(channel):
                        await channel.send(Pong(nonce))
            case Alive() | Suspect() | Left():
                self._hear(channel.peer, message)
            case Inquire(subject, nonce):
                with _patient(channel):
                    await channel.send(Reached(nonce, await self._ping_once(subject)))
            case _:
                raise Malformed("answers without a question", channel.peer)

    async def _ping_once(self, subject: PeerId) -> bool:
        """Only over a connection that is there: nobody makes this node dial."""
        links = ((info.peer, info.plane) for info in self._network.connections())
        if not self._is_member(subject) or (subject, Plane.CONTROL) not in links:
            return False
        try:
            with deadline(PING_FOR_ANOTHER_S, "no pong"):
                async with self._dial(subject) as channel:
                    await ask(channel, Ping(0), Pong)
        except (Unavailable, RemoteFault):
            return False
        return True

    def _dial(self, peer: PeerId) -> AbstractAsyncContextManager[Channel[WatchMessage]]:
        return dial(self._network, peer, streams.PING, WATCH_CODEC, self._network_id)


def _patient(channel: Channel[WatchMessage]) -> deadline:
    return deadline(limits.PROBE_S, f"{channel.peer} takes no answer")
