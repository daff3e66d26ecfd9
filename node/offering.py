"""Offering a model to the mesh and taking it back: from a folder to events and a plan that people can read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

import trio

from inference.model.folder import ModelFolder
from inference.placement.driver import ModelToOffer, Placement
from inference.placement.planning.plan import Goal, Plan, PlannedRange, StandbyPolicy, Strategy
from mesh.members.driver import Members
from mesh.nursery import peer_nursery
from node import api
from node.config import ModelConfig
from node.library import Library
from protocols import limits
from protocols.errors import NotFound, UserError
from protocols.ids import PeerId
from protocols.placement import StandbyKind

EVENTS_WAITING_MAX = 4096  # of progress; a client that reads none for that long misses some
STRATEGIES = {
    "interactive": Strategy.INTERACTIVE,
    "throughput": Strategy.THROUGHPUT,
    "balanced": Strategy.CROSS_NODE_BALANCED,
}


class Offering:
    """What `weft offer`, `weft plan` and `weft withdraw` do."""

    def __init__(
        self,
        config: ModelConfig,
        library: Library,
        placement: Placement,
        members: Members,
        own: PeerId,
        name_of: Callable[[PeerId], str],
    ) -> None:
        self._config = config
        self._library = library
        self._placement = placement
        self._members = members
        self._own = own
        self._name_of = name_of

    @asynccontextmanager
    async def offer(
        self, path: str, name: str | None, on: Sequence[str], goal: api.Goal
    ) -> AsyncIterator[AsyncIterator[api.OfferEvent]]:
        """See `node.api.NodeApi.offer`."""
        outgoing, incoming = trio.open_memory_channel[api.OfferEvent](EVENTS_WAITING_MAX)
        async with incoming, peer_nursery() as nursery:
            nursery.start_soon(self._offer, path, name, self._peers(on), goal, outgoing)
            yield incoming
            nursery.cancel_scope.cancel()

    async def plan(self, model: str, on: Sequence[str], goal: api.Goal) -> api.Plan:
        """Of a model that was offered here, of a folder, or of the embedded model."""
        peers = self._peers(on)
        folder = await self._library.find(model, _unheard)
        to_offer = self._to_offer(folder, PurePath(folder.path).name)
        return self._shown(to_offer, await self._placement.plan_view(to_offer, peers, _goal(goal)))

    async def withdraw(self, model: str) -> api.Withdrawn:
        """See `node.api.NodeApi.withdraw`."""
        note = self._placement.claims.lookup(model)
        released = await self._placement.withdraw(note, limits.WITHDRAW_S)
        ranges = tuple(
            api.ReleasedRange(
                str(each.range), each.holder, self._name_of(each.holder), each.standby, each.trouble
            )
            for each in released
        )
        return api.Withdrawn(note.name, note.digest, ranges)

    async def _offer(
        self,
        path: str,
        name: str | None,
        on: tuple[PeerId, ...],
        goal: api.Goal,
        events: trio.MemorySendChannel[api.OfferEvent],
    ) -> None:
        def read(done_bytes: int, total_bytes: int) -> None:
            own = self._own
            _tell(
                events,
                api.OfferProgress(own, self._name_of(own), "all", False, "reading", done_bytes, total_bytes),
            )

        folder = await self._library.add(path, read)
        model = self._to_offer(folder, name or PurePath(folder.path).name)
        plan = await self._placement.offer(model, lambda event: self._tell(event, events), on, _goal(goal))
        await events.send(api.Offered(self._shown(model, plan)))
        # Not closed when something above fails: the reader would go on before the nursery has told it why.
        events.close()

    def _to_offer(self, folder: ModelFolder, name: str) -> ModelToOffer:
        return ModelToOffer(folder.digest, name, folder.config, self._config.dtype, self._config.numerics)

    def _tell(self, event: dict[str, Any], events: trio.MemorySendChannel[api.OfferEvent]) -> None:
        """Of all that placement tells, what moves a progress bar."""
        phase = event.get("phase", event["event"])
        if phase in {"fetching", "mapping", "loading", "claimed"}:
            peer = event["peer"]
            done_bytes, total_bytes = event.get("done_bytes", 0), event.get("total_bytes", 0)
            progress = api.OfferProgress(
                peer, self._name_of(peer), event["layers"], event["standby"], phase, done_bytes, total_bytes
            )
            _tell(events, progress)

    def _peers(self, names: Sequence[str]) -> tuple[PeerId, ...]:
        known = {self._own: self._name_of(self._own)}
        known |= {contact.peer: self._name_of(contact.peer) for contact in self._members.members()}
        return tuple(_find(name, known) for name in names)

    def _shown(self, model: ModelToOffer, plan: Plan) -> api.Plan:
        return api.Plan(
            model=model.name,
            digest=model.digest,
            layers=model.config.layers,
            ranges=tuple(self._shown_range(planned) for planned in plan.ranges),
            token_ms=round(plan.token_ms, 3),
            return_ms=round(plan.return_ms, 3),
            tokens_per_s=round(plan.tokens_per_s, 2),
            notes=plan.notes,
            refused=tuple(
                api.RefusedNode(each.peer, self._name_of(each.peer), each.reason) for each in plan.refusals
            ),
            entry_serves_if_lost=plan.entry_serves_if_lost,
        )

    def _shown_range(self, planned: PlannedRange) -> api.PlannedRange:
        standbys = tuple(
            api.PlannedStandby(
                each.peer,
                self._name_of(each.peer),
                each.kind.value,
                each.bytes_needed,
                each.promoted_bytes,
                round(each.pause_ms, 1),
                each.reason,
            )
            for each in planned.standbys
        )
        ready = next((each for each in planned.standbys if each.kind is not StandbyKind.COLD), None)
        return api.PlannedRange(
            range=str(planned.range),
            holder=planned.primary,
            holder_name=self._name_of(planned.primary),
            standby=ready.peer if ready else None,
            standby_name=self._name_of(ready.peer) if ready else None,
            bytes_needed=planned.bytes_needed,
            compute_ms=round(planned.compute_ms, 3),
            hop_ms=round(planned.hop_ms, 3),
            reason=planned.reason,
            standbys=standbys,
        )


def _goal(goal: api.Goal) -> Goal:
    return Goal(STRATEGIES[goal.strategy], goal.replicas, StandbyPolicy(goal.standby))


def _find(name: str, known: dict[PeerId, str]) -> PeerId:
    fitting = [
        peer for peer, called in known.items() if called == name or peer == name or peer.endswith(name)
    ]
    if not fitting:
        raise NotFound(f"no member is called {name!r}: 'weft status' lists them.")
    if len(fitting) > 1:
        raise UserError(f"{name!r} fits {len(fitting)} members: use more of the peer id.")
    return fitting[0]


def _tell(events: trio.MemorySendChannel[api.OfferEvent], event: api.OfferProgress) -> None:
    try:
        events.send_nowait(event)
    except trio.WouldBlock:
        return  # of progress the next will tell


def _unheard(_done_bytes: int, _total_bytes: int) -> None:
    """Nobody waits for the progress of a dry run."""
