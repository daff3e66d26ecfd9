"""What the membership machine asks for and takes time: dialling and telling. Failures are answers, not errors."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from mesh.rpc import deadline, dial
from protocols import limits, streams
from protocols.errors import RemoteFault, Unauthenticated, Unavailable
from protocols.ids import NetworkId, PeerId, shortened
from protocols.membership import MEMBERS_CODEC, MembersMessage
from protocols.seams import Network
from protocols.streams import Plane

log = structlog.get_logger()

TELL_TRIES: Final = 3
TELL_PAUSE_S: Final = 0.5


class Errands:
    """Over one network; every errand ends by itself and raises nothing."""

    def __init__(self, network: Network, network_id: NetworkId) -> None:
        self._network = network
        self._network_id = network_id
        self._dials = trio.CapacityLimiter(limits.DIALS_AT_ONCE)
        # Members may be invented, at addresses where nobody answers: those that are not must not wait for them all.
        self._first_dials = trio.CapacityLimiter(limits.DIALS_AT_ONCE // 2)
        self._refusals: dict[PeerId, str] = {}  # by members, of whom there are not too many

    async def dial(self, peer: PeerId, plane: Plane, *, was_seen: bool = True) -> bool:
        """Whether there is a connection now. Who was never seen waits apart from the others.

        A reason to refuse one is logged once, for the operators of both sides.
        """
        try:
            async with self._dials if was_seen else self._first_dials:
                with deadline(limits.DIAL_S * limits.ADDRESSES_MAX, "no connection"):
                    await self._network.connect(peer, plane)
        except (Unavailable, RemoteFault) as error:
            is_refusal = isinstance(error, Unauthenticated)
            say = log.warning if is_refusal and self._refusals.get(peer) != str(error) else log.debug
            if is_refusal:
                self._refusals[peer] = str(error)
            say("a dial failed", peer=shortened(peer), plane=plane.value, reason=str(error))
            return False
        self._refusals.pop(peer, None)
        return True

    async def disconnect(self, peer: PeerId) -> None:
        with trio.move_on_after(limits.LEAVE_S):
            await self._network.disconnect(peer)

    async def tell(self, peer: PeerId, *messages: MembersMessage) -> bool:
        """Whether the peer has taken it all in; tried again a few times, because the next chance is the next connection."""
        for _ in range(TELL_TRIES):
            if await self.tell_once(peer, *messages):
                return True
            await trio.sleep(TELL_PAUSE_S)
        return False

    async def tell_once(self, peer: PeerId, *messages: MembersMessage) -> bool:
        try:
            with deadline(limits.REPLY_S, "not heard"):
                async with dial(
                    self._network, peer, streams.MEMBERS, MEMBERS_CODEC, self._network_id
                ) as channel:
                    for message in messages:
                        await channel.send(message)
                    await channel.stream.close()
                    await channel.stream.receive()  # the peer closes when it has read to the end
        except (Unavailable, RemoteFault) as error:
            log.debug("a member was not told", peer=shortened(peer), reason=str(error))
            return False
        return True

    async def ask(self, peer: PeerId, question: MembersMessage) -> MembersMessage | None:
        """The answer, or None if there is none."""
        try:
            with deadline(limits.REPLY_S, "no answer"):
                async with dial(
                    self._network, peer, streams.MEMBERS, MEMBERS_CODEC, self._network_id
                ) as channel:
                    await channel.send(question)
                    return await channel.receive()
        except (Unavailable, RemoteFault) as error:
            log.debug("a member did not answer", peer=shortened(peer), reason=str(error))
            return None
