"""What this node answers on JOIN and MEMBERS streams: to whoever wants to come in, and to members with a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mesh.admission.credentials import Credentials
from mesh.admission.inviting import Inviting
from mesh.admission.joining import accept, serve_join
from mesh.directory.address_book import AddressBook
from mesh.rpc import Channel, accepting, blaming, deadline
from protocols import limits, streams
from protocols.errors import Disconnected, Malformed
from protocols.ids import NetworkId
from protocols.membership import (
    JOIN_CODEC,
    MEMBERS_CODEC,
    Contact,
    JoinAccepted,
    JoinMessage,
    JoinRefused,
    JoinRequest,
    MembersMessage,
    Renew,
    Renewed,
    Revoked,
    Whereabouts,
    WhereIs,
)
from protocols.seams import Network


@dataclass(frozen=True, slots=True)
class Answering:
    """Of one node. `let_in` is called with the contact of a newcomer before it is told, `revoked` with a list of revocations;
    it raises `RemoteFault` for one that does not hold."""

    papers: Credentials
    inviting: Inviting
    book: AddressBook
    own_contact: Callable[[], Contact]
    let_in: Callable[[Contact], None]
    revoked: Callable[[bytes], None]

    def serve(self, network: Network, network_id: NetworkId) -> None:
        """From now on."""
        network.handle(streams.JOIN, accepting(streams.JOIN, JOIN_CODEC, network_id, self._serve_join))
        network.handle(streams.MEMBERS, accepting(streams.MEMBERS, MEMBERS_CODEC, network_id, self._serve))

    async def _serve_join(self, channel: Channel[JoinMessage]) -> None:
        await serve_join(channel, self._judge)

    def _judge(self, request: JoinRequest) -> JoinAccepted | JoinRefused:
        newcomer = request.contact
        has_room = newcomer.peer in self.book or len(self.book) + 1 < limits.MEMBERS_MAX
        has_room = has_room and self.papers.door.has_room(newcomer.peer)
        chain = self.inviting.admit(newcomer.peer, request.secret, has_room=has_room)
        if isinstance(chain, str):
            return JoinRefused(chain)
        self.let_in(newcomer)
        others = [contact for contact in self.book if contact.peer != newcomer.peer]
        return accept(self.own_contact(), others, chain)

    async def _serve(self, channel: Channel[MembersMessage]) -> None:
        while True:
            try:
                with deadline(limits.REPLY_S, f"{channel.peer} says nothing more"):
                    message = await channel.receive()
            except Disconnected:
                return
            await self._answer(channel, message)

    async def _answer(self, channel: Channel[MembersMessage], message: MembersMessage) -> None:
        match message:
            case Revoked(body):
                with blaming(channel.peer):
                    self.revoked(body)
            case WhereIs(peer):
                await self._reply(channel, Whereabouts(self.book.get(peer)))
            case Renew():
                await self._reply(channel, Renewed(self.papers.renew(channel.peer)))
            case _:
                raise Malformed("an answer that nobody asked for", channel.peer)

    async def _reply(self, channel: Channel[MembersMessage], message: MembersMessage) -> None:
        with deadline(limits.REPLY_S, f"{channel.peer} takes no answer"):
            await channel.send(message)
