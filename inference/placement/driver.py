"""`Placement`: a node's part in dividing models over the mesh, as proposer and as holder.

    placement = Placement(network, network_id, members, disk, worker, weights)
    await nursery.start(placement.run)
    plan = await placement.offer(ModelToOffer(...), on_event)

`claims` is what every router reads. It holds what this node really holds and what each member told of itself, and a member that
goes down is out of it in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
import trio

from inference.model.config import ModelConfig
from inference.placement.claims import ClaimTable, term_of
from inference.placement.events import Event, Subject
from inference.placement.grants import GrantPolicy
from inference.placement.holder import Drained, Holder
from inference.placement.holdings import Holding, Weights
from inference.placement.members import Members
from inference.placement.negotiation import Negotiation
from inference.placement.plan import ModelSize, Plan, measure_size
from inference.placement.planner import make_plan
from inference.placement.proposal import Proposal
from inference.placement.surveying import ask_all
from inference.placement.telling import Telling
from inference.sessions.shard import HeldShard
from mesh.members.membership import MemberDown, MemberUp
from mesh.nursery import peer_nursery
from mesh.rpc import Channel, accepting, deadline
from protocols import limits, streams
from protocols.errors import Malformed, Overloaded, UserError
from protocols.ids import ModelDigest, NetworkId, PeerId, shortened
from protocols.placement import (
    PLACEMENT_CODEC,
    Capacity,
    Claims,
    LayerRange,
    ModelNote,
    Offer,
    PlacementMessage,
    Release,
    Survey,
)
from protocols.seams import Disk, Network, ShardWorker
from protocols.tensor import DType

log = structlog.get_logger()

WEIGHTS_FROM_MAX = 16  # as the wire bounds it
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class ModelToOffer:
    """A model whose weights this node can serve. `dtype` is f32 or bf16, `numerics` fast or exact."""

    digest: ModelDigest
    name: str
    config: ModelConfig
    dtype: str = "bf16"
    numerics: str = "exact"

    def size(self) -> ModelSize:
        """With KV for one session of the model's context, or of `ROWS_RESERVED_MAX` rows if that is longer."""
        return measure_size(
            self.name,
            self.config.layers,
            lambda held: self.config.range_bytes(held, self.dtype),
            lambda held: self.config.kv_bytes_per_row(held, self.dtype),
            min(self.config.context, limits.ROWS_RESERVED_MAX),
        )


class Placement:
    """Needs `run` to be ready before anything is offered."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        members: Members,
        disk: Disk,
        worker: ShardWorker,
        weights: Weights,
        policy: GrantPolicy = GrantPolicy(),  # noqa: B008  (frozen)
    ) -> None:
        self.claims = ClaimTable()
        self._network = network
        self._network_id = network_id
        self._members = members
        self._holder = Holder(network.peer, worker, weights, disk, policy, self._holdings_changed)
        self._telling = Telling(network, network_id, self._own_claims)
        self._offering: set[ModelDigest] = set()
        self._table_changed = trio.Event()
        network.handle(
            streams.PLACEMENT, accepting(streams.PLACEMENT, PLACEMENT_CODEC, network_id, self._serve)
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Ranges of an earlier run come back by themselves after this is ready."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._holder.run)
            self._holdings_changed()
            nursery.start_soon(self._follow_members)
            task_status.started()

    # What is held here -----------------------------------------------------------------------------------------------

    def own_shards(self) -> tuple[Holding, ...]:
        return tuple(self._holder.holdings.values())

    def held(self, model: ModelDigest, layers: LayerRange) -> HeldShard | None:
        """The shard for exactly that range, if the worker has it now."""
        holding = self._holder.holdings.get((model, layers))
        if holding is None:
            return None
        dtype = DType.F32 if holding.claim.dtype == "f32" else DType.BF16
        return HeldShard(holding.shard, holding.config.hidden, dtype, holding.claim.numerics == "exact")

    def unload_after(self, drained: Drained) -> None:
        """Before a released shard is unloaded, wait for `drained(shard)`."""
        self._holder.drained = drained

    def keep_note(self, note: ModelNote) -> None:
        """Tell the mesh that this node keeps the manifest and small files of a model, by this name."""
        notes = self._holder.notes
        notes.pop(note.digest, None)
        if len(notes) >= limits.MODELS_MAX:
            raise UserError(f"{limits.MODELS_MAX} models are known here: no more fit.")
        notes[note.digest] = note
        self._holder.keep()
        self._holdings_changed()

    # Proposing -------------------------------------------------------------------------------------------------------

    async def offer(self, model: ModelToOffer, on_event: Tell, on: Collection[PeerId] = ()) -> Plan:
        """Divide the model over the mesh, or over the nodes `on`; returns when every range is claimed.

        Raises `UserError` with what is missing or who refused. Leaving early releases what was granted. `on_event` hears
        surveyed, unreachable, planned, granted, declined, progress, failed, lost, claimed and ready; it must not wait.
        """
        if model.digest in self._offering:
            raise UserError(f"{model.name} is being placed already: wait until that has ended.")
        self._offering.add(model.digest)
        try:
            self.keep_note(ModelNote(model.digest, model.name, model.config.layers))
            capacities = await self._survey(model, on_event, on)
            before = self.claims.claims(model.digest)
            others = [peer for peer, capacity in capacities.items() if capacity.has_weights]
            own = self._network.peer
            sources = (own, *(peer for peer in others if peer != own))[:WEIGHTS_FROM_MAX]
            subject = Subject(model.digest, model.size(), model.dtype, model.numerics, sources)
            proposal = Proposal(subject, own, capacities, term_of(before) + 1, before)
            plan = await Negotiation(proposal, self._network, self._network_id, self._members, on_event).run()
            await self._until_told(model.digest, plan)
        finally:
            self._offering.discard(model.digest)
        on_event({"event": "ready", "model": model.digest, "name": model.name})
        return plan

    async def plan_view(self, model: ModelToOffer, on: Collection[PeerId] = ()) -> Plan:
        """Who would hold what if the model were offered now. Raises `UserError` if it would not fit."""
        return make_plan(model.size(), await self._survey(model, _unheard, on), self._network.peer)

    async def _survey(
        self, model: ModelToOffer, on_event: Tell, on: Collection[PeerId]
    ) -> dict[PeerId, Capacity]:
        """What everybody asked could hold; who does not answer is left out."""
        up = [contact.peer for contact in self._members.members() if self._members.is_up(contact.peer)]
        reachable = {self._network.peer, *up}
        away = sorted(set(on) - reachable)
        if away:
            raise UserError(f"{', '.join(map(shortened, away))} is not up: 'weft status' lists the members.")
        survey = Survey(model.digest, model.config.layer_shape(model.dtype))
        return await ask_all(self._network, self._network_id, set(on) or reachable, survey, on_event)

    async def _until_told(self, model: ModelDigest, plan: Plan) -> None:
        """A claim reaches the proposer's negotiation before the table that routers read."""
        wanted = {(each.peer, each.range, each.standby) for each in plan.assignments()}
        with deadline(limits.REPLY_S, f"not every holder of {shortened(model)} told what it holds"):
            while not wanted <= {
                (claim.holder, claim.range, claim.standby) for claim in self.claims.claims(model)
            }:
                await self._table_changed.wait()

    # Answering -------------------------------------------------------------------------------------------------------

    async def _serve(self, channel: Channel[PlacementMessage]) -> None:
        with deadline(limits.REPLY_S, "nothing was asked"):
            message = await channel.receive()
        match message:
            case Survey():
                await channel.send(await self._holder.survey(message))
            case Offer():
                await self._holder.serve_offer(channel, message)
            case Release():
                await self._holder.release(message, channel.peer)
            case Claims():
                if self.claims.tell(channel.peer, message):
                    self._notify()
            case _:
                raise Malformed(
                    f"a placement stream does not begin with {type(message).__name__}", channel.peer
                )

    # Telling ---------------------------------------------------------------------------------------------------------

    def _own_claims(self) -> Claims:
        return Claims(self._holder.claims(), tuple(self._holder.notes.values()))

    def _holdings_changed(self) -> None:
        """Called in the same breath as the change itself, so that no route is made over what is gone."""
        self._adopt_names()
        if self.claims.tell(self._network.peer, self._own_claims()):
            self._telling.changed()
            self._notify()

    def _adopt_names(self) -> None:
        """A holder keeps the small files, so it can name the model when the proposer is gone."""
        notes = self._holder.notes
        for model in {claim.model for claim in self._holder.claims()} - notes.keys():
            note = self.claims.note_of(model)
            if note is not None and len(notes) < limits.MODELS_MAX:
                notes[model] = note
                self._holder.keep()

    def _notify(self) -> None:
        self._table_changed.set()
        self._table_changed = trio.Event()

    async def _follow_members(self) -> None:
        while True:
            try:
                await self._follow_events()
            except Overloaded:
                log.warning("placement fell behind the events of members and starts over")
                continue
            return

    async def _follow_events(self) -> None:
        tasks: dict[PeerId, trio.CancelScope] = {}
        with self._members.subscribe() as events:
            async with peer_nursery() as nursery:
                for contact in self._members.members():
                    self._heard(contact.peer, tasks, nursery)
                try:
                    async for event in events:
                        match event:
                            case MemberUp(peer) | MemberDown(peer):
                                self._heard(peer, tasks, nursery)
                finally:
                    nursery.cancel_scope.cancel()

    def _heard(self, peer: PeerId, tasks: dict[PeerId, trio.CancelScope], nursery: trio.Nursery) -> None:
        """Bring the table and the telling in line with whether the peer is up now."""
        if peer == self._network.peer:
            return
        if peer in tasks:
            tasks.pop(peer).cancel()  # told anew after every coming up
        if self._members.is_up(peer):
            tasks[peer] = trio.CancelScope()
            nursery.start_soon(self._keep_told, peer, tasks[peer])
        else:
            self.claims.down(peer)
        self._notify()

    async def _keep_told(self, peer: PeerId, scope: trio.CancelScope) -> None:
        with scope:
            await self._telling.keep_told(peer)


def _unheard(_event: Event) -> None:
    """A plan that is only looked at has no audience."""
