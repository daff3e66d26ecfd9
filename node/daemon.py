"""A node, put together: mesh, placement, sessions and weights behind `node.api.NodeApi`.

The rule of the file: composition only. `Daemon` is given everything that is not deterministic as seams, so that many run in
one process; `node.opening` binds the real ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio
from msgspec.structs import replace

from inference.placement.driver import Placement
from inference.placement.gossiping import GossipBoard, check_claim, check_note
from inference.placement.holding.grants import GrantPolicy
from inference.sessions.entry import Entry
from inference.sessions.relay import Relay
from inference.sessions.shard import ShardServer
from mesh.admission.identity import Identity
from mesh.admission.signatures import IsStatement, is_statement_of
from mesh.directory.bootstrap import Names
from mesh.liveness.detector import State
from mesh.members.driver import Members, Profile
from mesh.nursery import peer_nursery
from mesh.picture.driver import Picture
from mesh.picture.loop_lag import LoopLag
from node import api, opinions
from node.config import Config
from node.faults import GOSSIP, Faults
from node.generation import Generation
from node.library import Library
from node.machine import Readings
from node.memory import TensorMemory
from node.memory_view import MemoryView
from node.memory_watch import Measure, MemoryWatch
from node.offering import Offering
from node.outlook import PictureOutlook
from node.peers import Peers
from node.revoking import revoke
from node.views import View
from node.vitals import VitalSigns
from protocols.errors import Refused
from protocols.gossip import Heard, Topic
from protocols.health import HealthDigest
from protocols.hello import MINOR
from protocols.ids import NetworkId, PeerId, shortened
from protocols.records import Capabilities
from protocols.seams import ForeignPeers, Seams

GIB: Final = (
    1 << 30
)  # free memory is told by that much, and late if it grows, or the record would be made anew all the time


class Daemon:
    """Implements `node.api.NodeApi` while `run` is open."""

    def __init__(
        self,
        config: Config,
        seams: Seams,
        library: Library,
        identity: Identity,
        network_id: NetworkId,
        foreign: ForeignPeers | None = None,
        *,
        names: Names | None = None,
        readings: Callable[[], Readings] = Readings,
        measure: Measure | None = None,
        is_statement: IsStatement = is_statement_of,
    ) -> None:
        own = seams.network.peer
        self.network_id = network_id
        self._readings = readings
        self._told_bytes = 0
        self._config = config
        self._seams = seams
        self._library = library
        self.members = self._make_members(config, seams, identity, names, is_statement)
        self.relay = Relay(seams.network, network_id)
        self.picture = Picture(
            own,
            seams.clock,
            seams.disk,
            seams.randomness,
            self.members.gossip,
            digest=self._digest,
            sponsor_of=self.members.sponsor_of,
            is_member=self.members.is_member,
            members=self.members.count,
        )
        self.placement = Placement(
            seams.network,
            network_id,
            self.members,
            GossipBoard(self.members, own),
            seams.disk,
            seams.worker,
            library,
            GrantPolicy(config.worker.layers_max, not config.worker.accept_offers, config.worker.kv),
            outlook=PictureOutlook(self.picture, self.members),
            observe=self.picture.observe,
        )
        self.server = ShardServer(seams.network, network_id, self.relay, seams.worker, self.placement)
        self.placement.unload_after(self.server.drained)
        self.entry = Entry(seams.network, network_id, self.relay, self.picture.observe, self._is_gone)
        self.generation = Generation(
            seams.network.peer,
            self.entry,
            self.placement.claims,
            library,
            seams.clock,
            seams.randomness,
            self.name_of,
            self.placement.adoptable,
            self.picture.score,
            self._minor_of,
            shares_prefix=config.worker.prefix_cache,
        )
        self._foreign = foreign
        self.faults: Final = self._make_faults()
        self._lag = LoopLag()
        self._vitals = VitalSigns(seams, self.members, self.placement, self.server, self._lag, readings)
        self._offering = Offering(config.model, library, self.placement, self.members, own, self.name_of)
        self._view = View(
            network_id,
            seams,
            self.members,
            self.placement,
            self.server,
            self.generation,
            library,
            self.name_of,
            self.faults,
        )
        self.memory_watch = MemoryWatch(seams.worker, self.server, self.placement, measure)
        self._memory = MemoryView(
            own, seams.worker, self.server, self.memory_watch, self.name_of, self._view.model_name
        )
        self._peers = Peers(own, self.members, self.placement.claims, self.picture, self.name_of)

    def _make_members(
        self,
        config: Config,
        seams: Seams,
        identity: Identity,
        names: Names | None,
        is_statement: IsStatement,
    ) -> Members:
        node = config.node
        profile = Profile(node.name, node.labels, self._capabilities, config.mesh.bootstrap, names)
        validators = {
            Topic.CLAIMS: check_claim,
            Topic.MODELS: check_note,
            Topic.OBSERVATIONS: self._check_opinion,
            Topic.HEALTH: self._check_opinion,
        }
        return Members(
            seams.network,
            seams.clock,
            seams.disk,
            seams.randomness,
            identity,
            profile,
            validators,
            is_statement,
        )

    def _make_faults(self) -> Faults:
        faults = Faults()
        faults.add("", lambda: self._seams.network.faults)
        faults.add("gossip", lambda: self.members.gossip.counts, GOSSIP)
        faults.add("", self.members.troubles)
        if (foreign := self._foreign) is not None:
            faults.add("foreign", lambda: foreign.faults)
        return faults

    @asynccontextmanager
    async def run(self) -> AsyncIterator[api.NodeApi]:
        """The node is up while the context is open. Raises `UserError` if it can't join."""
        async with self._seams.network.run(), peer_nursery() as nursery:
            await nursery.start(self.members.run)
            await nursery.start(self._lag.run)
            await nursery.start(self.picture.run)
            await nursery.start(self.relay.run)
            await self._library.load()
            if self._config.mesh.join:
                await self.members.join(self._config.mesh.join)
            await nursery.start(self.placement.run)
            nursery.start_soon(self.memory_watch.run)
            try:
                yield self
            finally:
                self.server.end()  # first, or a stage would blame the one behind it for what this node gives up
                with trio.CancelScope(shield=True):
                    await self.members.leave()
                nursery.cancel_scope.cancel()

    def name_of(self, peer: PeerId) -> str:
        """What people call a node."""
        if peer == self._seams.network.peer:
            return self._config.node.name or shortened(peer)
        names = (contact.name for contact in self.members.members() if contact.peer == peer)
        return next(names, "") or shortened(peer)

    def _minor_of(self, peer: PeerId) -> int:
        record = self.members.record(peer)
        return (
            MINOR if record is None else record.capabilities.minor
        )  # its Hello tells, where it has no record yet

    def _is_gone(self, peer: PeerId) -> bool:
        if peer == self._seams.network.peer or self.members.is_up(peer):
            return False
        return self.members.watch.state(peer) > State.SUSPECT

    def _capabilities(self) -> Capabilities:
        worker, machine = self._config.worker, self._readings()
        free_bytes = max(0, self._seams.worker.free_bytes())
        if not self._told_bytes <= free_bytes < self._told_bytes + 2 * GIB:
            self._told_bytes = free_bytes // GIB * GIB
        return Capabilities(
            cores=machine.cores,
            memory_bytes=machine.memory_total_bytes,
            worker_bytes=self._told_bytes,
            accepts_offers=worker.accept_offers,
            layers_max=worker.layers_max,
            devices=(self._seams.worker.memory().device,),
            minor=MINOR,
        )

    def _digest(self) -> HealthDigest:
        return self._vitals.digest()

    def _check_opinion(self, heard: Heard) -> None:
        self.picture.check(heard)

    # NodeApi ---------------------------------------------------------------------------------------------------------

    def status(self) -> api.NodeStatus:
        status = self._view.status()
        if self._foreign is None:
            return status
        return replace(status, addresses=status.addresses | {"foreign": self._foreign.addresses})

    async def invite(self, uses: int, ttl_s: float) -> str:
        return self.members.invite(uses, ttl_s)

    async def revoke(self, peer: str) -> api.RevokedMember:
        return revoke(self.members, self.name_of, peer)

    def models(self) -> tuple[api.Model, ...]:
        return self._view.models()

    def offer(
        self,
        path_or_name: str,
        name: str | None = None,
        on: tuple[str, ...] = (),
        goal: api.Goal = api.Goal(),  # noqa: B008  (frozen)
    ) -> AbstractAsyncContextManager[AsyncIterator[api.OfferEvent]]:
        return self._offering.offer(path_or_name, name, on, goal)

    async def plan(
        self,
        model: str,
        on: tuple[str, ...] = (),
        goal: api.Goal = api.Goal(),  # noqa: B008  (frozen)
    ) -> api.Plan:
        return await self._offering.plan(model, on, goal)

    async def withdraw(self, model: str) -> api.Withdrawn:
        return await self._offering.withdraw(model)

    def generate(
        self, request: api.GenerateRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[api.GenerateEvent]]:
        return self.generation.generate(request)

    def sessions(self) -> tuple[api.Session, ...]:
        return self._view.sessions()

    def memory(self) -> TensorMemory:
        return self._memory.now()

    def peers(self) -> tuple[opinions.Peer, ...]:
        return self._peers.all()

    def why_peer(self, peer: str) -> opinions.WhyPeer:
        return self._peers.why(peer)

    async def ping(self, address: str, count: int) -> api.Pinged:
        if self._foreign is None:
            raise Refused(
                "This node has nothing to do with foreign peers: allow them with 'weft up --foreign-listen'"
                " or mesh.foreign_listen, such as /ip4/127.0.0.1/tcp/4749."
            )
        found = await self._foreign.ping(address, count)
        return api.Pinged(found.peer, found.agent, found.rtts_ms)

    async def drain(self) -> None:
        self.server.refuse("this node is going down")
        await self.generation.drain()
        await self.server.drain()
