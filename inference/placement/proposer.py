"""The proposer's side over streams: survey, negotiate, tidy up after a plan, and take a model back.

The rule of the file: once a plan of a model stands, or the model is withdrawn, this node has decided about it, and releases
whatever it hears of that its decision has no place for: a range of an older plan whose holder was away, or of another proposer
that was placing the model at the same time. It has nothing more to say as soon as somebody decides under a higher term.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog
import trio

from inference.model.config import ModelConfig
from inference.placement.claims import ClaimTable, term_of
from inference.placement.events import Event, Subject
from inference.placement.members import Members
from inference.placement.negotiation import Negotiation
from inference.placement.planning.plan import Goal, ModelSize, Plan, measure_size
from inference.placement.proposal import Proposal
from inference.placement.replacing import Outlook, PlainOutlook, Replacing
from inference.placement.surveying import ask_all
from inference.placement.telling import send_alone
from mesh.rpc import deadline
from protocols import limits
from protocols.errors import RemoteFault, Unavailable, UserError
from protocols.ids import ModelDigest, NetworkId, PeerId, shortened
from protocols.observations import Observe, unobserved
from protocols.placement import Capacity, Claim, LayerRange, Release, Survey
from protocols.seams import Network

log = structlog.get_logger()

WEIGHTS_FROM_MAX = 16  # as the wire bounds it
Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class ModelToOffer:
    """A model whose weights this node can serve. `dtype` is bf16, f32, int8 or int4, `numerics` fast or exact."""

    digest: ModelDigest
    name: str
    config: ModelConfig
    dtype: str = "bf16"
    numerics: str = "exact"

    def size(self) -> ModelSize:
        """With KV for one session of the model's context, or of `ROWS_RESERVED_MAX` rows if that is longer."""
        return size_of(self.name, self.config, self.dtype)


def size_of(name: str, config: ModelConfig, dtype: str, kv: str = "model") -> ModelSize:
    """Of a model, with the KV that is reserved with every range, kept in `kv`."""
    return measure_size(
        name,
        config.layers,
        lambda held: config.range_bytes(held, dtype),
        lambda held: config.kv_bytes_per_row(held, dtype, kv),
        min(config.context, limits.ROWS_RESERVED_MAX),
    )


@dataclass(frozen=True, slots=True)
class Released:
    """What became of one range of a withdrawn model; `trouble` is empty if its memory is free again."""

    holder: PeerId
    range: LayerRange
    standby: bool
    trouble: str = ""


@dataclass(slots=True)
class _Decision:
    """About claims up to `term`; what is not wanted is released under `release_term`."""

    term: int
    release_term: int
    wanted: frozenset[tuple[PeerId, LayerRange]]
    released: set[Claim] = field(
        default_factory=set
    )  # each is told once; at most what one node hears of a model


class Proposer:
    """`table_changed` gives the event that is set when the table of claims changes next."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        members: Members,
        claims: ClaimTable,
        table_changed: Callable[[], trio.Event],
        outlook: Outlook | None = None,
        observe: Observe = unobserved,
    ) -> None:
        self._network = network
        self._network_id = network_id
        self._members = members
        self._claims = claims
        self._table_changed = table_changed
        self._outlook = outlook or PlainOutlook()
        self._observe = observe
        self._offering: set[ModelDigest] = set()
        self._decided: dict[ModelDigest, _Decision] = {}

    async def run(self) -> None:
        """Until cancelled: release what the decisions of this node have no place for."""
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._table_changed()
                for model, decision in tuple(self._decided.items()):
                    self._tidy(model, decision, nursery)
                await changed.wait()

    # Offering --------------------------------------------------------------------------------------------------------

    async def offer(self, model: ModelToOffer, on_event: Tell, on: Collection[PeerId], goal: Goal) -> Plan:
        """See `inference.placement.driver.Placement.offer`."""
        with self._alone_with(model.digest, model.name):
            capacities = await self._survey(model, on_event, on)
            before = self._claims.claims(model.digest)
            others = [peer for peer, capacity in capacities.items() if capacity.has_weights]
            own = self._network.peer
            sources = (own, *(peer for peer in others if peer != own))[:WEIGHTS_FROM_MAX]
            subject = Subject(model.digest, model.size(), model.dtype, model.numerics, sources)
            term = self._claims.term_of(model.digest) + 1
            proposal = Proposal(subject, own, capacities, term, before, self._replacing(model, goal))
            negotiation = Negotiation(
                proposal, self._network, self._network_id, self._members, on_event, self._observe
            )
            plan = await negotiation.run()
            self._decide(model.digest, proposal.term, plan)
            await self._until_told(model.digest, plan)
        on_event({"event": "ready", "model": model.digest, "name": model.name})
        return plan

    async def plan_view(self, model: ModelToOffer, on: Collection[PeerId], goal: Goal) -> Plan:
        """Who would hold what if the model were offered now. Raises `UserError` if it would not fit."""
        return self._replacing(model, goal).plan(await self._survey(model, _unheard, on))

    def _replacing(self, model: ModelToOffer, goal: Goal) -> Replacing:
        return Replacing(model.size(), self._network.peer, goal, self._outlook)

    def _alone_with(self, model: ModelDigest, name: str) -> _Alone:
        if model in self._offering:
            raise UserError(f"{name} is being placed already: wait until that has ended.")
        return _Alone(self._offering, model)

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
                (claim.holder, claim.range, claim.standby) for claim in self._claims.claims(model)
            }:
                await self._table_changed().wait()

    # Withdrawing -----------------------------------------------------------------------------------------------------

    async def withdraw(self, model: ModelDigest, name: str, within_s: float) -> tuple[Released, ...]:
        """No claim of it stands afterwards; memory is free once the sessions on it have ended, waited for that long.

        What nodes that are down hold is released when they come back while this node is up. Idempotent.
        """
        with self._alone_with(model, name):
            claims = self._claims.claims(model)
            term = self._claims.term_of(model)
            self._remember(model, _Decision(term, term + 1, frozenset(), set(claims)))
            released: list[Released] = []

            async def release(claim: Claim) -> None:
                trouble = await self._release(claim, term + 1, within_s)
                released.append(Released(claim.holder, claim.range, claim.standby, trouble))

            async with trio.open_nursery() as nursery:
                for claim in claims:
                    nursery.start_soon(release, claim)
            await self._until_gone(claims, {each.holder for each in released if not each.trouble})
        return tuple(sorted(released, key=lambda each: (each.range, each.standby, each.holder)))

    async def _until_gone(self, claims: Collection[Claim], holders: Collection[PeerId]) -> None:
        """What was let go of may be heard of a moment later."""
        let_go = {claim for claim in claims if claim.holder in holders}
        with trio.move_on_after(limits.REPLY_S):
            while any(let_go.intersection(self._claims.claims(claim.model)) for claim in let_go):
                await self._table_changed().wait()

    async def _release(self, claim: Claim, term: int, within_s: float = limits.REPLY_S) -> str:
        """What went wrong; empty if its memory is free again."""
        release = Release(term, claim.model, claim.range)
        try:
            await send_alone(self._network, self._network_id, claim.holder, release, within_s)
        except (Unavailable, RemoteFault) as error:
            log.info("a range was not released", peer=claim.holder, reason=str(error))
            return str(error)
        return ""

    # Tidying ---------------------------------------------------------------------------------------------------------

    def _decide(self, model: ModelDigest, term: int, plan: Plan) -> None:
        wanted = frozenset((each.peer, each.range) for each in plan.assignments())
        self._remember(model, _Decision(term, term, wanted))

    def _remember(self, model: ModelDigest, decision: _Decision) -> None:
        self._decided.pop(model, None)
        if len(self._decided) >= limits.MODELS_MAX:
            del self._decided[next(iter(self._decided))]
        self._decided[model] = decision

    def _tidy(self, model: ModelDigest, decision: _Decision, nursery: trio.Nursery) -> None:
        claims = self._claims.claims(model)
        if term_of(claims) > decision.term:
            del self._decided[model]
            return
        for claim in claims:
            if (claim.holder, claim.range) not in decision.wanted and claim not in decision.released:
                decision.released.add(claim)
                nursery.start_soon(self._release, claim, decision.release_term)


class _Alone:
    """One thing at a time with a model."""

    def __init__(self, busy: set[ModelDigest], model: ModelDigest) -> None:
        self._busy, self._model = busy, model

    def __enter__(self) -> None:
        self._busy.add(self._model)

    def __exit__(self, *_: object) -> None:
        self._busy.discard(self._model)


def _unheard(_event: Event) -> None:
    """A plan that is only looked at has no audience."""
