"""`Placement`: a node's part in dividing models over the mesh, as proposer and as holder.

    placement = Placement(network, network_id, members, disk, worker, weights)
    await nursery.start(placement.run)
    plan = await placement.offer(ModelToOffer(...), on_event)

`claims` is what every router reads. It holds what this node really holds and what each member told of itself, and a member that
goes down is out of it in the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from inference.model.config import ModelConfig
from inference.model.precision import wire_of
from inference.placement.board import ClaimBoard
from inference.placement.claims import ClaimTable
from inference.placement.events import Event
from inference.placement.holding.grants import GrantPolicy
from inference.placement.holding.holder import Drained, Holder
from inference.placement.holding.holdings import Holding, Weights
from inference.placement.members import Members
from inference.placement.planning.plan import Goal, Plan
from inference.placement.proposer import WEIGHTS_FROM_MAX, Proposer, Released, size_of
from inference.placement.proposer import ModelToOffer as ModelToOffer
from inference.placement.replacing import Outlook
from inference.sessions.held import HeldShard
from mesh.rpc import Channel, accepting, deadline
from protocols import limits, streams
from protocols.errors import Malformed, UserError
from protocols.ids import ModelDigest, NetworkId, PeerId
from protocols.observations import Observe, unobserved
from protocols.placement import (
    PLACEMENT_CODEC,
    Claim,
    Claims,
    LayerRange,
    ModelNote,
    Offer,
    PlacementMessage,
    Release,
    StandbyKind,
    Survey,
)
from protocols.seams import Disk, Network, ShardWorker

Tell = Callable[[Event], None]


class Placement:
    """Needs `run` to be ready before anything is offered."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        members: Members,
        board: ClaimBoard,
        disk: Disk,
        worker: ShardWorker,
        weights: Weights,
        policy: GrantPolicy = GrantPolicy(),  # noqa: B008  (frozen)
        *,
        outlook: Outlook | None = None,
        observe: Observe = unobserved,
    ) -> None:
        self.claims = ClaimTable()
        self._network = network
        self._holder = Holder(network.peer, worker, weights, disk, policy, self._holdings_changed)
        self._holder.elsewhere = self._is_served_elsewhere
        self._board = board
        self._board.listen(self._heard, self._down)
        self._table_changed = trio.Event()
        self._proposer = Proposer(
            network, network_id, members, self.claims, lambda: self._table_changed, outlook, observe
        )
        network.handle(
            streams.PLACEMENT, accepting(streams.PLACEMENT, PLACEMENT_CODEC, network_id, self._serve)
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Ranges of an earlier run come back by themselves after this is ready."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._holder.run)
            self._holdings_changed()
            await nursery.start(lambda *, task_status: self._board.run(task_status=task_status))
            nursery.start_soon(self._proposer.run)
            task_status.started()

    # What is held here -----------------------------------------------------------------------------------------------

    def own_shards(self) -> tuple[Holding, ...]:
        """Mapped ones included."""
        return tuple(self._holder.holdings.values())

    def held(self, model: ModelDigest, layers: LayerRange) -> HeldShard | None:
        """The shard for exactly that range, if the worker has it now."""
        holding = self._holder.holdings.get((model, layers))
        if holding is None or not holding.is_loaded:
            return None
        dtype = wire_of(holding.claim.dtype)
        return HeldShard(holding.shard, holding.config.hidden, dtype, holding.claim.numerics == "exact")

    def can_load(self, model: ModelDigest, layers: LayerRange, entry: PeerId) -> bool:
        """Whether `load` is worth waiting for: the range is mapped here, or a session of this very node adopts it."""
        return self._holder.can_make_ready((model, layers), is_own_session=entry == self._network.peer)

    async def load(self, model: ModelDigest, layers: LayerRange) -> None:
        """The range is in the worker afterwards, and claimed. Raises `Unavailable` with the reason."""
        await self._holder.make_ready((model, layers))

    def load_work(self) -> int:
        """Rises while this node fetches or loads anything."""
        return self._holder.load_work

    async def shed(self) -> Claim | None:
        """As `Holder.shed`."""
        return await self._holder.shed()

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

    # What nobody holds any more --------------------------------------------------------------------------------------

    def adoptable(self, lost: Claim, config: ModelConfig) -> Claim | None:
        """What this node would claim in place of a lost claim, if it has room; from then on its own sessions may open it."""
        size = size_of("", config, lost.dtype, self._holder.grants.policy.kv)
        own = self._network.peer
        keepers = tuple(peer for peer in self.claims.keepers(lost.model) if peer != own)
        offer = Offer(
            term=self.claims.term_of(lost.model) + 1,
            proposer=own,
            model=lost.model,
            range=lost.range,
            standby=True,
            dtype=lost.dtype,
            numerics=lost.numerics,
            bytes_needed=size.bytes_of(lost.range),
            lease_s=limits.LEASE_S_MAX,
            weights_from=(own, *keepers)[:WEIGHTS_FROM_MAX],
        )
        if not self._holder.may_adopt(offer):
            return None
        return Claim(
            own, lost.model, lost.range, True, lost.dtype, lost.numerics, "", lost.layer_ms, offer.term,
            kind=StandbyKind.COLD,
        )  # fmt: skip

    def _is_served_elsewhere(self, own: Claim) -> bool:
        """By a primary: a standby may count on this node in turn."""
        return any(
            (claim.range, claim.dtype) == (own.range, own.dtype)
            and claim.holder != own.holder
            and not claim.standby
            for claim in self.claims.claims(own.model)
        )

    # Proposing -------------------------------------------------------------------------------------------------------

    async def offer(
        self,
        model: ModelToOffer,
        on_event: Tell,
        on: Collection[PeerId] = (),
        goal: Goal = Goal(),  # noqa: B008  (frozen)
    ) -> Plan:
        """Divide the model over the mesh, or over the nodes `on`; returns when every range is claimed.

        Raises `UserError` with what is missing or who refused. Leaving early releases what was granted. `on_event` hears
        surveyed, unreachable, planned, granted, declined, progress, failed, lost, claimed and ready; it must not wait.
        """
        self.keep_note(ModelNote(model.digest, model.name, model.config.layers))
        return await self._proposer.offer(model, on_event, on, goal)

    async def plan_view(
        self,
        model: ModelToOffer,
        on: Collection[PeerId] = (),
        goal: Goal = Goal(),  # noqa: B008  (frozen)
    ) -> Plan:
        """Who would hold what if the model were offered now. Raises `UserError` if it would not fit."""
        return await self._proposer.plan_view(model, on, goal)

    async def withdraw(self, note: ModelNote, within_s: float = limits.DRAIN_S) -> tuple[Released, ...]:
        """Nobody claims any of it afterwards; what became of each range. Idempotent.

        Memory is free once the sessions on a range have ended; those are waited for that long, and end in peace.
        """
        return await self._proposer.withdraw(note.digest, note.name, within_s)

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
            case _:
                raise Malformed(
                    f"a placement stream does not begin with {type(message).__name__}", channel.peer
                )

    # Claims ----------------------------------------------------------------------------------------------------------

    def _heard(self, holder: PeerId, told: Claims) -> None:
        if self.claims.tell(holder, told):
            self._notify()

    def _down(self, peer: PeerId) -> None:
        self.claims.down(peer)
        self._notify()

    def _holdings_changed(self) -> None:
        """Called in the same breath as the change itself, so that no route is made over what is gone."""
        self._adopt_names()
        own = Claims(self._holder.claims(), tuple(self._holder.notes.values()))
        if self.claims.tell(self._network.peer, own):
            self._board.publish(own)
            self._notify()

    def _adopt_names(self) -> None:
        """A holder keeps the small files, so it can name the model when the proposer is gone."""
        notes = self._holder.notes
        for model in sorted({claim.model for claim in self._holder.claims()} - notes.keys()):
            note = self.claims.note_of(model)
            if note is not None and len(notes) < limits.MODELS_MAX:
                notes[model] = note
                self._holder.keep()

    def _notify(self) -> None:
        self._table_changed.set()
        self._table_changed = trio.Event()
