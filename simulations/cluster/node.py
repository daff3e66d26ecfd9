"""One simulated machine: a whole daemon with the home that outlives its process."""

from __future__ import annotations

from pathlib import Path

import trio

from mesh.admission.belonging import decide_network
from mesh.admission.identity import load_identity
from mesh.state.files import inline
from node.config import Config, MeshConfig, NodeConfig
from node.daemon import Daemon
from node.library import Library
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.seams import Seams
from simulations.chance import chance
from simulations.machine.clock import SeededRandomness, VirtualClock
from simulations.machine.disk import MemoryDisk
from simulations.machine.worker import VirtualWorker
from simulations.network.internet import VirtualWorld
from simulations.network.network import VirtualNetwork
from simulations.scenarios.script import NodeSpec
from simulations.trace import Trace


class SimulatedNode:
    """A machine and, while `daemon` is not None, the process on it. `root` is a real folder for its large files."""

    def __init__(self, spec: NodeSpec, seed: int, internet: VirtualWorld, root: Path, trace: Trace) -> None:
        self.spec = spec
        self.name = spec.name
        self.disk = MemoryDisk()
        self.clock = VirtualClock(spec.skew_s)
        self.daemon: Daemon | None = None
        self.network: VirtualNetwork | None = None
        self.worker = self._make_worker()
        self.starts = 0
        self.down_at_s: float | None = None
        self.peer: PeerId | None = None
        self._seed = seed
        self._internet = internet
        self._root = root
        self._trace = trace
        self._process: trio.CancelScope | None = None
        self._ended = trio.Event()

    @property
    def is_up(self) -> bool:
        return self.daemon is not None

    def _make_worker(self) -> VirtualWorker:
        spec = self.spec
        return VirtualWorker(layer_ms=spec.layer_ms, row_ms=spec.row_ms, memory_bytes=spec.memory_mb << 20)

    async def live(self, invite: str = "", *, task_status: trio.TaskStatus[Daemon]) -> None:
        """A process from its start to its end; gives the daemon once it is up. Raises `UserError` if it can't join."""
        self.starts += 1
        self._ended = trio.Event()
        self.worker = self._make_worker()
        daemon = self._make_daemon(invite)
        refusal: UserError | None = None
        with trio.CancelScope() as self._process:
            try:
                async with daemon.run():
                    self.daemon, self.down_at_s = daemon, None
                    self._trace.note(self.name, "is up")
                    task_status.started(daemon)
                    await trio.sleep_forever()
            except UserError as error:
                refusal = error
            finally:
                self.daemon = None
                self._ended.set()
        if refusal is not None:
            raise refusal

    def _make_daemon(self, invite: str) -> Daemon:
        randomness = SeededRandomness(chance(self._seed, self.name, self.starts).getrandbits(64))
        identity = load_identity(self.disk, randomness, self.clock.wall())
        self.peer = identity.peer
        network_id = decide_network(self.disk, identity, randomness, self.clock.wall(), invite or None)
        self.network = self._internet.network(
            identity.peer, network_id, lambda: tuple(key.public for key in identity.statics)
        )
        seams = Seams(self.clock, randomness, self.network, self.disk, self.worker)
        library = Library(self.network, network_id, self.disk, self._root / self.name, inline)
        labels = (f"zone={self.spec.zone}",) if self.spec.zone else ()
        config = Config(node=NodeConfig(self.name, labels), mesh=MeshConfig(join=invite))
        return Daemon(config, seams, library, identity, network_id)

    async def crash(self) -> None:
        """The process ends at once; what it would still have done reaches neither network nor disk."""
        if self.daemon is None or self._process is None or self.peer is None:
            return
        self._trace.note(self.name, "crashes")
        self.down_at_s = trio.current_time()
        self.daemon = None
        self._internet.kill(self.peer)
        self.disk = self.disk.detach()
        self.worker.crash()
        self._process.cancel()
        await self._ended.wait()

    async def leave(self) -> None:
        """An orderly stop."""
        if self.daemon is None or self._process is None:
            return
        self._trace.note(self.name, "leaves")
        with trio.move_on_after(60):
            await self.daemon.drain()
        self.down_at_s = trio.current_time()
        self._process.cancel()
        await self._ended.wait()
