"""A daemon on this machine: every seam of `node.daemon.Daemon` bound to the real thing.

The rule of the file: what takes long to import is imported where it is used, beside other things that take long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from inference.engine.memory.pressure import room_bytes
from inference.engine.worker.client import WorkerClient
from inference.engine.worker.settings import WorkerSettings
from mesh.admission.belonging import decide_network
from mesh.admission.identity import Identity, load_identity
from mesh.directory.bootstrap import Names
from mesh.nursery import peer_nursery
from node import api
from node.clock import SystemClock
from node.config import Config, MeshConfig
from node.daemon import Daemon
from node.disk import FolderDisk, SystemRandomness
from node.folders import Folders
from node.library import Library
from node.machine import (
    Footprint,
    cores,
    read_footprint,
    read_machine,
    read_memory,
    spare_memory_bytes,
)
from node.memory_watch import Measured
from node.processes import torch_worker
from protocols import limits
from protocols.ids import NetworkId
from protocols.seams import ForeignPeers, Network, Randomness, Seams
from protocols.streams import Plane


@asynccontextmanager
async def open_daemon(config: Config, folders: Folders) -> AsyncIterator[api.NodeApi]:
    """A node on this machine. Raises `UserError` for what its operator has to mend."""
    disk, randomness = FolderDisk(folders.state), SystemRandomness()
    clock = SystemClock()
    identity = load_identity(disk, randomness, clock.wall())
    network_id = decide_network(disk, identity, randomness, clock.wall(), config.mesh.join or None)
    given_bytes = config.worker.memory_mb << 20
    worker_bytes = given_bytes or spare_memory_bytes()
    settings = WorkerSettings(
        config.worker.threads or cores(),
        worker_bytes,
        given_bytes,
        f"{folders.cache}/quantised",
        limits.KV_PREFIX_SHARE if config.worker.prefix_cache else 0.0,
        config.worker.device,
        config.worker.tensor_parallel,
        config.worker.kv,
    )
    worker = WorkerClient(torch_worker(settings), worker_bytes, _room_bytes)
    async with peer_nursery() as nursery:
        async with peer_nursery() as starting:
            starting.start_soon(nursery.start, worker.run)
            network = await trio.to_thread.run_sync(_make_network, config.mesh, identity, network_id)
        seams = Seams(clock, randomness, network, disk, worker)
        library = Library(network, network_id, disk, folders.data)
        async with _open_foreign(config.mesh, identity, randomness) as foreign:
            daemon = Daemon(
                config,
                seams,
                library,
                identity,
                network_id,
                foreign,
                names=_system_names(),
                readings=read_machine,
                measure=_measure,
            )
            async with daemon.run() as node:
                if config.mesh.mdns:
                    nursery.start_soon(_listen_on_links, config.mesh, daemon)
                yield node
            nursery.cancel_scope.cancel()


def _room_bytes() -> int:
    """What the machine has for more weights and sessions before it is short of memory."""
    memory = read_memory()
    return room_bytes(memory.available_bytes, memory.total_bytes)


def _measure(worker: int | None) -> Measured:
    return Measured(read_memory(), read_footprint(worker) if worker is not None else Footprint())


def _system_names() -> Names:
    from mesh.host.addresses.dnsaddr import SystemNames

    return SystemNames()


async def _listen_on_links(config: MeshConfig, daemon: Daemon) -> None:
    """Announce this node where the configuration allows it, and hear of others there."""
    from mesh.host.addresses.interfaces import own_interfaces
    from mesh.host.addresses.mdns import Mdns

    members = daemon.members
    mdns = Mdns(members.network_id, members.contact, own_interfaces, config.interfaces)
    daemon.faults.add("mdns", lambda: mdns.dropped)
    await mdns.run(members.hear)


@asynccontextmanager
async def _open_foreign(
    config: MeshConfig, identity: Identity, randomness: Randomness
) -> AsyncIterator[ForeignPeers | None]:
    """None unless the operator allows them. Raises `UserError` for an address that can't be listened on."""
    if not config.foreign_listen:
        yield None
        return
    from mesh.host.foreign import peers as foreign

    peers = foreign.ForeignPeers(identity, randomness, config.foreign_listen, config.interfaces)
    async with peers.run():
        yield peers


def _make_network(config: MeshConfig, identity: Identity, network_id: NetworkId) -> Network:
    # libp2p takes as long to import as torch does in the worker: side by side they cost half.
    from mesh.host.addresses.interfaces import Reach
    from mesh.host.libp2p_network import Libp2pNetwork

    listen = {Plane.CONTROL: (config.control_listen,), Plane.DATA: (config.data_listen,)}
    options = {Plane.CONTROL: "mesh.control_listen", Plane.DATA: "mesh.data_listen"}
    reach = Reach(config.interfaces, config.control_advertise, config.data_advertise)
    return Libp2pNetwork(identity, network_id, listen, options, reach)
