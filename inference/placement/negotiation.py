"""Drives one `Proposal`: every offer on a stream of its own, every answer back into the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, assert_never

import structlog
import trio

from inference.placement.events import (
    Answered,
    Event,
    GaveUp,
    Input,
    LetGo,
    Lost,
    Output,
    Placed,
    Propose,
    Report,
)
from inference.placement.members import Members
from inference.placement.planning.plan import Assignment, Plan
from inference.placement.proposal import Proposal
from inference.placement.telling import send_alone
from mesh.members.membership import MemberDown
from mesh.nursery import peer_nursery
from mesh.rpc import Channel, deadline, dial
from protocols import limits, streams
from protocols.errors import Malformed, RemoteFault, Unavailable, UserError
from protocols.ids import NetworkId, PeerId, shortened
from protocols.observations import Observe, Outcome, unobserved
from protocols.placement import (
    PLACEMENT_CODEC,
    Claim,
    Declined,
    Granted,
    LayerRange,
    LoadFailed,
    LoadProgress,
    Offer,
    PlacementMessage,
)
from protocols.seams import Network

log = structlog.get_logger()

ANSWERS_WAITING_MAX: Final = 64  # a node whose answer has no room waits
Tell = Callable[[Event], None]


class Negotiation:
    """One use. `on_event` must not wait. `observe` hears of nodes that granted and did not keep it."""

    def __init__(
        self,
        proposal: Proposal,
        network: Network,
        network_id: NetworkId,
        members: Members,
        on_event: Tell,
        observe: Observe = unobserved,
    ) -> None:
        self._proposal = proposal
        self._network = network
        self._network_id = network_id
        self._members = members
        self._on_event = on_event
        self._observe = observe
        self._send_input, self._inputs = trio.open_memory_channel[Input](ANSWERS_WAITING_MAX)
        self._streams: dict[tuple[PeerId, LayerRange], trio.CancelScope] = {}

    async def run(self) -> Plan:
        """The plan that is claimed by all its holders. Raises `UserError` with the reasons if there is none.

        Leaving early releases what was granted.
        """
        try:
            async with peer_nursery() as nursery:
                nursery.start_soon(self._watch_members)
                outputs = self._proposal.begin()
                while (plan := await self._act(outputs, nursery)) is None:
                    outputs = self._proposal.handle(await self._next())
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(limits.REPLY_S, shield=True):
                await self._let_go(self._proposal.abandon())
        return plan

    async def _next(self) -> Input:
        event = await self._inputs.receive()
        if isinstance(event, Lost):
            # Whatever else it was asked is given up with it, or it would claim what is in no plan.
            for (peer, _), scope in self._streams.items():
                if peer == event.peer:
                    scope.cancel()
        return event

    async def _act(self, outputs: list[Output], nursery: trio.Nursery) -> Plan | None:
        await self._let_go(outputs)
        for output in outputs:
            match output:
                case LetGo():
                    pass  # done, before anything new is proposed to the same node
                case Propose(assignment, offer):
                    nursery.start_soon(self._negotiate, assignment, offer)
                case Report(event):
                    self._on_event(event)
                case GaveUp(message):
                    raise UserError(message)
                case Placed(plan):
                    return plan
                case _:
                    assert_never(output)
        return None

    async def _let_go(self, outputs: Iterable[Output]) -> None:
        async with trio.open_nursery() as nursery:
            for output in outputs:
                if isinstance(output, LetGo):
                    if scope := self._streams.get((output.peer, output.release.range)):
                        scope.cancel()
                    nursery.start_soon(self._release, output)

    async def _release(self, order: LetGo) -> None:
        try:
            await send_alone(self._network, self._network_id, order.peer, order.release)
        except (Unavailable, RemoteFault) as error:
            # Its lease ends; what it has claimed is released by the next plan of this model.
            log.info("a range was not released", peer=order.peer, reason=str(error))

    async def _negotiate(self, assignment: Assignment, offer: Offer) -> None:
        key = (assignment.peer, assignment.range)
        with trio.CancelScope() as scope:
            self._streams[key] = scope
            try:
                async with dial(
                    self._network, assignment.peer, streams.PLACEMENT, PLACEMENT_CODEC, self._network_id
                ) as channel:
                    await self._offer(channel, assignment, offer)
            except (Unavailable, RemoteFault) as error:
                self._note(assignment, Outcome.FAILED, str(error))
                await self._send_input.send(Lost(assignment.peer, str(error)))
        if self._streams.get(key) is scope:
            del self._streams[key]

    async def _offer(self, channel: Channel[PlacementMessage], assignment: Assignment, offer: Offer) -> None:
        with deadline(limits.REPLY_S, "no answer to an offer"):
            await channel.send(offer)
            reply = await channel.receive()
        if not isinstance(reply, Granted | Declined):
            raise Malformed(f"an offer is not answered by {type(reply).__name__}", channel.peer)
        await self._send_input.send(Answered(assignment, reply))
        if isinstance(reply, Granted):
            with deadline(offer.lease_s + limits.REPLY_S, "neither a claim nor a word"):
                await self._follow(channel, assignment)

    async def _follow(self, channel: Channel[PlacementMessage], assignment: Assignment) -> None:
        """Pass progress on until the range is claimed or the grant is gone."""
        while True:
            match await channel.receive():
                case LoadProgress(phase, done_bytes, total_bytes):
                    self._on_event(
                        {
                            "event": "progress",
                            "peer": assignment.peer,
                            "layers": str(assignment.range),
                            "standby": assignment.standby,
                            "phase": phase,
                            "done_bytes": done_bytes,
                            "total_bytes": total_bytes,
                        }
                    )
                case (Claim() | LoadFailed() | Declined()) as end:
                    if isinstance(end, LoadFailed):
                        self._note(assignment, Outcome.FAILED, end.reason)
                    await self._send_input.send(Answered(assignment, end))
                    return
                case other:
                    raise Malformed(f"a {type(other).__name__} instead of a claim", channel.peer)

    def _note(self, assignment: Assignment, outcome: Outcome, reason: str) -> None:
        model = shortened(self._proposal.subject.model)
        self._observe(assignment.peer, outcome, f"layers {assignment.range} of model {model}: {reason}")

    async def _watch_members(self) -> None:
        """One that claimed and went down again is lost too, though its stream has ended."""
        with self._members.subscribe() as events:
            async for event in events:
                if isinstance(event, MemberDown):
                    await self._send_input.send(Lost(event.peer, "it is down"))
