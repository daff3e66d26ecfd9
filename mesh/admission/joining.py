"""The one exchange between a node that holds an invite and the member that made it.

joiner                              inviter
  | JoinRequest(secret, contact) --> |   a stranger until here
  | <-- JoinAccepted(members, chain) |   as many contacts as fit; gossip tells of the rest
  | or JoinRefused(reason)           |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Dishonest, Malformed, Refused, RemoteFault, Unavailable, UserError
from protocols.frame import PREFIX
from protocols.membership import (
    JOIN_CODEC,
    Contact,
    Invite,
    JoinAccepted,
    JoinMessage,
    JoinRefused,
    JoinRequest,
)
from protocols.seams import Network

NEW_INVITE: Final = "make a new one there with 'weft invite'."
REASONS: Final = {
    "unknown": f"The inviter does not know this invite (its home may be new): {NEW_INVITE}",
    "expired": f"The invite has expired: {NEW_INVITE}",
    "spent": f"The invite is spent, all its uses are taken: {NEW_INVITE}",
    "revoked": "This node's membership was revoked: to come back it needs a home of its own (WEFT_HOME) and an invite.",
    "powerless": "The inviter may not invite any more: ask another member for an invite.",
    "full": f"The network is full ({limits.MEMBERS_MAX} members): let nodes go before adding more.",
}

Judge = Callable[[JoinRequest], JoinAccepted | JoinRefused]
"""Decides on a request, and has everything ready for the new member when it returns."""


async def request_join(network: Network, invite: Invite, own: Contact, now_s: float) -> JoinAccepted:
    """The inviter has let this node in; the chain is not checked yet.

    Raises `UserError` with what to do: the inviter can't be reached (perhaps because the invite has expired by now), or
    it refuses (`Refused`).
    """
    inviter = invite.inviter.peer
    try:
        with deadline(limits.JOIN_S, "no answer to the join request"):
            async with dial(network, inviter, streams.JOIN, JOIN_CODEC, invite.network) as channel:
                await channel.send(JoinRequest(invite.secret, own))
                answer = await channel.receive()
    except (Unavailable, RemoteFault) as error:
        if invite.expires_s <= now_s:
            raise Refused(REASONS["expired"]) from error
        where = " or ".join(invite.inviter.control)
        raise UserError(
            f"The inviter does not let this node in at {where} ({error}): "
            "check that it is up and reachable from here, and that the invite is still valid."
        ) from error
    match answer:
        case JoinAccepted():
            return answer
        case JoinRefused(reason):
            raise Refused(REASONS.get(reason, f"The inviter refuses ({reason!r}): {NEW_INVITE}"))
        case _:
            raise UserError(f"The inviter answered what no member answers: {NEW_INVITE}")


async def serve_join(channel: Channel[JoinMessage], judge: Judge) -> None:
    """One request of one stranger, within `JOIN_S`. Raises `RemoteFault` for anything else."""
    with deadline(limits.JOIN_S, f"no join request from {channel.peer}"):
        request = await channel.receive()
        if not isinstance(request, JoinRequest):
            raise Malformed("a join begins with a request", channel.peer)
        if request.contact.peer != channel.peer:
            raise Dishonest("a join request for another peer", channel.peer)
        await channel.send(judge(request))


def accept(own: Contact, others: Sequence[Contact], chain: bytes) -> JoinAccepted:
    """An answer with this node's contact and as many others as one frame of a join may hold."""
    members: list[Contact] = [own]
    room_bytes = limits.JOIN_BYTES_MAX - PREFIX.size - len(JOIN_CODEC.encode(JoinAccepted((own,), chain))) - 4
    for contact in others:
        room_bytes -= len(JOIN_CODEC.encode(JoinAccepted((contact,))))
        if room_bytes < 0:
            break
        members.append(contact)
    return JoinAccepted(tuple(members), chain)
