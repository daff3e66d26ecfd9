"""A node, put together: mesh, placement, sessions and weights behind `node.api.NodeApi`.

The rule of the file: composition only. `Daemon` is given everything that is not deterministic as seams, so that many run in
one process; `open_daemon` binds the real ones.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from inference.engine.worker_client import WorkerClient
from inference.placement.driver import Placement
from inference.placement.grants import GrantPolicy
from inference.sessions.entry import Entry
from inference.sessions.relay import Relay
from inference.sessions.shard import ShardServer
from mesh.members.belonging import decide_network
from mesh.members.driver import Members
from mesh.members.identity import Identity, load_identity
from mesh.nursery import peer_nursery
from node import api
from node.clock import SystemClock
from node.config import Config, MeshConfig
from node.disk import FolderDisk, SystemRandomness
from node.folders import Folders
from node.generation import Generation
from node.library import Library
from node.machine import cores, spare_memory_bytes
from node.offering import Offering
from node.processes import torch_worker
from node.views import View
from protocols.ids import NetworkId, PeerId, shortened
from protocols.seams import Network, Seams
from protocols.streams import Plane


class Daemon:
    """Implements `node.api.NodeApi` while `run` is open."""

    def __init__(self, config: Config, seams: Seams, library: Library, network_id: NetworkId) -> None:
        self.network_id = network_id
        self.members = Members(seams.network, seams.clock, seams.disk, seams.randomness, config.node.name)
        self.relay = Relay(seams.network, network_id)
        policy = GrantPolicy(config.worker.layers_max, refuses=not config.worker.accept_offers)
        self.placement = Placement(
            seams.network, network_id, self.members, seams.disk, seams.worker, library, policy
        )
        self.server = ShardServer(seams.network, network_id, self.relay, seams.worker, self.placement)
        self.placement.unload_after(self.server.drained)
        self.entry = Entry(seams.network, network_id, self.relay)
        self.generation = Generation(
            seams.network.peer,
            self.entry,
            self.placement.claims,
            library,
            seams.clock,
            seams.randomness,
            self.name_of,
        )
        self._config = config
        self._seams = seams
        self._library = library
        own = seams.network.peer
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
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[api.NodeApi]:
        """The node is up while the context is open. Raises `UserError` if it can't join."""
        async with self._seams.network.run(), peer_nursery() as nursery:
            await nursery.start(self.members.run)
            await nursery.start(self.relay.run)
            await self._library.load()
            if self._config.mesh.join:
                await self.members.join(self._config.mesh.join)
            await nursery.start(self.placement.run)
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

    # NodeApi ---------------------------------------------------------------------------------------------------------

    def status(self) -> api.NodeStatus:
        return self._view.status()

    async def invite(self, uses: int, ttl_s: float) -> str:
        return self.members.invite(uses, ttl_s)

    def models(self) -> tuple[api.Model, ...]:
        return self._view.models()

    def offer(
        self, path_or_name: str, name: str | None = None, on: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[AsyncIterator[api.OfferEvent]]:
        return self._offering.offer(path_or_name, name, on)

    async def plan(self, model: str) -> api.Plan:
        return await self._offering.plan(model)

    def generate(
        self, request: api.GenerateRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[api.GenerateEvent]]:
        return self.generation.generate(request)

    def sessions(self) -> tuple[api.Session, ...]:
        return self._view.sessions()

    async def drain(self) -> None:
        self.server.refuse("this node is going down")
        await self.generation.drain()
        await self.server.drain()


@asynccontextmanager
async def open_daemon(config: Config, folders: Folders) -> AsyncIterator[api.NodeApi]:
    """A node on this machine. Raises `UserError` for what its operator has to mend."""
    disk, randomness = FolderDisk(folders.state), SystemRandomness()
    identity = load_identity(disk, randomness)
    network_id = decide_network(disk, randomness, config.mesh.join or None)
    memory_bytes = config.worker.memory_mb << 20 or spare_memory_bytes()
    worker = WorkerClient(torch_worker(config.worker.threads or cores(), memory_bytes), memory_bytes)
    async with peer_nursery() as nursery:
        async with peer_nursery() as starting:
            starting.start_soon(nursery.start, worker.run)
            network = await trio.to_thread.run_sync(_make_network, config.mesh, identity, network_id)
        seams = Seams(SystemClock(), randomness, network, disk, worker)
        library = Library(network, network_id, disk, folders.data)
        async with Daemon(config, seams, library, network_id).run() as node:
            yield node
        nursery.cancel_scope.cancel()


def _make_network(config: MeshConfig, identity: Identity, network_id: NetworkId) -> Network:
    # libp2p takes as long to import as torch does in the worker: side by side they cost half.
    from mesh.host.libp2p_network import Libp2pNetwork

    listen = {Plane.CONTROL: (config.control_listen,), Plane.DATA: (config.data_listen,)}
    options = {Plane.CONTROL: "mesh.control_listen", Plane.DATA: "mesh.data_listen"}
    return Libp2pNetwork(identity, network_id, listen, options)
