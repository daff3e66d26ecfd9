"""What a node shows of itself: status, models and sessions, as `node.api` has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inference.placement.driver import Placement
from inference.placement.holding.holdings import Holding
from inference.sessions.shard import ShardServer
from mesh.directory.bootstrap import entry_text
from mesh.members.driver import Members
from node import api
from node.faults import Faults
from node.generation import Generation
from node.library import Library
from protocols.ids import ModelDigest, NetworkId, PeerId, shortened
from protocols.placement import Claim, ModelNote
from protocols.seams import Seams
from protocols.streams import Plane


@dataclass(frozen=True, slots=True)
class View:
    """Reads the parts of one node; changes nothing."""

    network_id: NetworkId
    seams: Seams
    members: Members
    placement: Placement
    server: ShardServer
    generation: Generation
    library: Library
    name_of: Callable[[PeerId], str]
    faults: Faults

    def status(self) -> api.NodeStatus:
        network = self.seams.network
        return api.NodeStatus(
            peer=network.peer,
            name=self.name_of(network.peer),
            network=self.network_id,
            addresses={plane.value: network.addresses(plane) for plane in Plane} | self._bootstrap(),
            members=tuple(
                api.Member(contact.peer, self.name_of(contact.peer), self.members.is_up(contact.peer))
                for contact in self.members.members()
            ),
            shards=self._shards(),
            worker=self._worker(),
            connections=tuple(
                api.Connection(each.peer, each.plane.value, each.security, each.dialled)
                for each in network.connections()
            ),
            faults=self.faults.all(),
        )

    def _bootstrap(self) -> dict[str, tuple[str, ...]]:
        """What others put under `mesh.bootstrap` to find this node."""
        network = self.seams.network
        addresses = network.addresses(Plane.CONTROL)
        return {"bootstrap": tuple(entry_text(network.peer, each, network.static) for each in addresses)}

    def models(self) -> tuple[api.Model, ...]:
        return tuple(self._model(note) for note in self.placement.claims.models())

    def sessions(self) -> tuple[api.Session, ...]:
        now = self.seams.clock.monotonic()
        return tuple(
            api.Session(
                running.session,
                running.model.name,
                running.route,
                running.epoch,
                running.prompt_tokens,
                running.tokens,
                round(running.tokens_per_s, 2),
                round(now - running.began_s, 3),
            )
            for running in self.generation.running.values()
        )

    def _shards(self) -> tuple[api.Shard, ...]:
        return tuple(
            api.Shard(
                self.model_name(holding.claim.model),
                holding.claim.model,
                str(holding.claim.range),
                holding.claim.standby,
                holding.claim.numerics,
                holding.claim.numerics_class,
                self._open_on(holding),
                holding.claim.kind.value,
            )
            for holding in self.placement.own_shards()
        )

    def _open_on(self, holding: Holding) -> int:
        held = (holding.claim.model, holding.claim.range)
        return sum((opened.model, opened.range) == held for opened in self.server.sessions.values())

    def _worker(self) -> api.Worker:
        worker = self.seams.worker
        state = "ready" if worker.pid is not None else "dead"
        return api.Worker(state, worker.pid, worker.free_bytes(), self.server.shortage)

    def model_name(self, model: ModelDigest) -> str:
        """What people call a model."""
        note = self.placement.claims.note_of(model)
        return note.name if note else shortened(model)

    def _model(self, note: ModelNote) -> api.Model:
        claims = self.placement.claims.claims(note.digest)
        return api.Model(
            name=note.name,
            digest=note.digest,
            layers=note.layers,
            context=self.library.context_of(note.digest),
            local=self.library.has_folder(note.digest),
            ready=_covers(claims, note.layers),
            ranges=tuple(
                api.HeldRange(
                    str(claim.range),
                    claim.holder,
                    self.name_of(claim.holder),
                    claim.standby,
                    claim.kind.value,
                )
                for claim in sorted(claims, key=lambda claim: (claim.range, claim.standby, claim.holder))
            ),
        )


def _covers(claims: tuple[Claim, ...], layers: int) -> bool:
    """Whether some chain of ranges leads from the first layer to the last."""
    reached = {0}
    for claim in sorted(claims, key=lambda claim: claim.range):
        if claim.range.start in reached:
            reached.add(claim.range.end)
    return layers in reached
