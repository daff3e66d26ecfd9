"""One simulated machine: the home that outlives its processes, and the service manager that starts them.

A process that fails is started again after `RETRY_S`, as systemd does it, until it has failed for `GIVE_UP_S` without being
up. One that was crashed or left stays down until the machine is told to `live` again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from mesh.admission.belonging import decide_network, read_belonging
from mesh.admission.identity import load_identity
from mesh.admission.signatures import IsStatement, is_statement_of
from mesh.state.files import inline
from node.config import Config, MeshConfig, NodeConfig
from node.daemon import Daemon
from node.library import Library
from node.machine import Readings
from protocols.ids import PeerId
from protocols.seams import Seams
from simulations.chance import chance
from simulations.cluster.process import Body, Panic, Phase, Process
from simulations.machine.clock import SeededRandomness, VirtualClock
from simulations.machine.disk import MemoryDisk, Remains
from simulations.machine.lying import Conduct
from simulations.machine.pausing import Pauses
from simulations.machine.worker import MakeEngines, VirtualWorker
from simulations.network.internet import VirtualWorld
from simulations.network.network import VirtualNetwork
from simulations.scenarios.script import NodeSpec
from simulations.trace import Trace

RETRY_S: Final = 2.0
GIVE_UP_S: Final = 60.0
FREE_DISK_BYTES: Final = 1 << 40
"""What each says of its disk for weights; that of the machine which simulates is another every time."""

Invitation = Callable[[], Awaitable[str]]
"""An invite for a home that belongs to no network; empty: it founds one. Raises `UserError` if nobody can make one."""


class SimulatedNode:
    """A machine; `process` is the last one on it. `root` is a real folder for its large files."""

    def __init__(
        self,
        spec: NodeSpec,
        seed: int,
        internet: VirtualWorld,
        root: Path,
        trace: Trace,
        *,
        pauses: Pauses | None = None,
        panics: list[Panic] | None = None,
        engines: MakeEngines | None = None,
        is_statement: IsStatement = is_statement_of,
        learn: Callable[[PeerId, NodeSpec], None] = lambda _peer, _spec: None,
        conduct: Conduct | None = None,
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.disk = MemoryDisk(trio.current_time, chance(seed, "disk", spec.name))
        self.clock = VirtualClock(spec.skew_s)
        self.conduct = conduct or Conduct(is_honest=True)
        self.starts = 0
        self.found: dict[str, bytes] = {}  # the files on its disk when the last process began
        self.down_at_s: float | None = None
        self.peer: PeerId | None = None
        self.process: Process | None = None
        self.panics: list[Panic] = [] if panics is None else panics
        self._seed = seed
        self._internet = internet
        self._root = root
        self._trace = trace
        self._pauses = pauses or Pauses()
        self._engines = engines
        self._is_statement = is_statement
        self._learn = learn
        self._disks_lost = 0
        self._service: trio.CancelScope | None = None
        self._told: _Once | None = None
        self._off = trio.Event()  # of the last service

    # What others see -------------------------------------------------------------------------------------------------

    @property
    def daemon(self) -> Daemon | None:
        """While it is up, draining included."""
        process = self.process
        is_up = process is not None and process.up.is_set() and process.phase is not Phase.GONE
        return process.body.daemon if is_up and process is not None and process.body is not None else None

    @property
    def network(self) -> VirtualNetwork | None:
        body = self.process.body if self.process is not None else None
        return body.network if body is not None else None

    @property
    def worker(self) -> VirtualWorker:
        """Of the last process. Raises `AssertionError` before the first."""
        assert self.process is not None, f"{self.name} was never started"
        return self.process.worker

    @property
    def is_up(self) -> bool:
        return self.daemon is not None

    @property
    def is_on(self) -> bool:
        """Whether the service manager has a process or is about to start one."""
        return self._service is not None

    @property
    def is_leaving(self) -> bool:
        return self.process is not None and self.process.phase is Phase.DRAINING

    @property
    def is_paused(self) -> bool:
        return self.process is not None and self.process.holds > 0

    @property
    def root_task(self) -> trio.lowlevel.Task | None:
        return self.process.root_task if self.process is not None else None

    # Life ------------------------------------------------------------------------------------------------------------

    async def live(
        self, invitation: Invitation, *, task_status: trio.TaskStatus[bool] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Processes one after the other, until one is crashed or left. Gives whether one has come up, as soon as that is clear."""
        assert not self.is_on, f"{self.name} is on already"
        structlog.contextvars.bind_contextvars(node=self.name)  # of all that its processes log
        told = self._told = _Once(task_status)
        off = self._off = trio.Event()
        with trio.CancelScope() as service:
            self._service = service
            try:
                await self._serve(invitation, told)
            finally:
                if self._service is service:
                    self._service = None
                off.set()
                told.tell(is_up=False)

    async def _serve(self, invitation: Invitation, told: _Once) -> None:
        failing_since_s = trio.current_time()
        while True:
            process = self._new_process(invitation)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.run)
                nursery.start_soon(self._announce, process, told)
                try:
                    await process.gone.wait()
                finally:
                    process.end()  # whoever is cancelled needs turns to end, paused or not
                nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()  # what a killed process fails of is nobody's fault
            if process.failure is None:
                return
            self._fail(process)
            if process.is_stopping:
                return
            if process.up.is_set():
                failing_since_s = trio.current_time()
            if trio.current_time() - failing_since_s > GIVE_UP_S:
                self._trace.note(self.name, "is given up")
                return
            await trio.sleep(RETRY_S)

    async def _announce(self, process: Process, told: _Once) -> None:
        await process.up.wait()
        self.down_at_s = None
        self._trace.note(self.name, "is up")
        told.tell(is_up=True)

    def _fail(self, process: Process) -> None:
        """A process has ended by itself."""
        if process.up.is_set():
            self.down_at_s = trio.current_time()
        if (refusal := process.refusal()) is not None:
            self._trace.note(self.name, f"does not stay up: {refusal}")
            return
        panic = process.panic(self.name)
        self.panics.append(panic)
        self._trace.note(self.name, f"panics: {panic.error}")

    # What befalls it -------------------------------------------------------------------------------------------------

    async def crash(self, disk: Remains = "kept", *, silent: bool = False) -> None:
        """The process ends at once; what it would still have done reaches neither network nor disk.

        `silent`: nobody is told, as when the power fails. Also while it starts, drains, is paused or waits to be retried.
        """
        await trio.lowlevel.checkpoint()
        service, process = self._service, self.process
        if service is None or process is None:
            return
        self._trace.note(
            self.name, f"crashes, its disk is {disk}" + (" and nobody is told" if silent else "")
        )
        if self.is_up or process.phase is not Phase.GONE:
            self.down_at_s = trio.current_time()
        self._service = None
        if self.peer is not None:
            (self._internet.vanish if silent else self._internet.kill)(self.peer)
            if self.is_paused:
                self._internet.resume(self.peer)
        self.disk = process.disk.detach(disk)
        self._disks_lost += disk == "lost"
        process.worker.crash()
        process.end()
        service.cancel()
        if self._told is not None:  # what ends slowly keeps nobody from starting it again
            self._told.tell(is_up=False)

    async def leave(self) -> None:
        """An orderly stop, waited for; one that only waits to be retried is not retried."""
        await trio.lowlevel.checkpoint()
        service, process, off = self._service, self.process, self._off
        if service is None or process is None:
            return
        if process.phase is Phase.GONE:
            self._service = None
            service.cancel()
            return
        self._trace.note(self.name, "leaves")
        process.stop()
        await process.gone.wait()
        if self.process is process and self.down_at_s is None:
            self.down_at_s = trio.current_time()
        await off.wait()  # or whoever starts it again at this moment finds it on

    def pause(self) -> None:
        """SIGSTOP of the daemon; its worker computes on. Pauses add up, and end with the process."""
        if self.process is None or self.process.root_task is None or self.process.phase is Phase.GONE:
            return
        self.process.pause()
        if self.process.holds == 1:
            self._trace.note(self.name, "is stopped")
            if self.peer is not None:
                self._internet.pause(self.peer)

    def resume(self) -> None:
        """SIGCONT; nothing happens to a node that is not paused."""
        if self.process is None or not self.is_paused:
            return
        self.process.resume()
        if not self.is_paused:
            self._trace.note(self.name, "goes on")
            if self.peer is not None:
                self._internet.resume(self.peer)

    # Processes -------------------------------------------------------------------------------------------------------

    def _new_process(self, invitation: Invitation) -> Process:
        self.starts += 1
        self.found = dict(self.disk.files)
        spec = self.spec
        worker = VirtualWorker(
            layer_ms=spec.layer_ms,
            row_ms=spec.row_ms,
            load_s=spec.load_s,
            memory_bytes=spec.memory_mb << 20,
            engines=self._engines,
        )

        async def make(process: Process) -> Body:
            present = read_belonging(process.disk)
            invite = "" if present is not None and present.is_joined else await invitation()
            return self._make_body(process, invite)

        self.process = Process(make, self.disk, worker, self._pauses)
        return self.process

    def _make_body(self, process: Process, invite: str) -> Body:
        randomness = SeededRandomness(chance(self._seed, self.name, self.starts).getrandbits(64))
        disk = process.disk
        identity = load_identity(disk, randomness, self.clock.wall())
        self.peer = identity.peer
        self._learn(identity.peer, self.spec)
        network_id = decide_network(disk, identity, randomness, self.clock.wall(), invite or None)
        network = self._internet.network(
            identity.peer, network_id, lambda: tuple(key.public for key in identity.statics)
        )
        shown = self.conduct.network(network)
        seams = Seams(self.clock, randomness, shown, disk, self.conduct.worker(process.worker))
        home = self._root / f"{self.name}.{self._disks_lost}"
        library = Library(shown, network_id, disk, home, inline, lambda _: FREE_DISK_BYTES)
        labels = (f"zone={self.spec.zone}",) if self.spec.zone else ()
        config = Config(node=NodeConfig(self.name, labels), mesh=MeshConfig(join=invite))
        readings = self.conduct.readings(lambda: self._readings(process.worker))
        daemon = Daemon(
            config, seams, library, identity, network_id, readings=readings, is_statement=self._is_statement
        )
        return Body(daemon, network)

    def _readings(self, worker: VirtualWorker) -> Readings:
        return Readings(max(0, worker.free_bytes()), self.spec.memory_mb << 20, cores=1)


class _Once:
    """Tells a task status, the first time only."""

    def __init__(self, status: trio.TaskStatus[bool]) -> None:
        self._status = status
        self._is_told = False

    def tell(self, *, is_up: bool) -> None:
        if not self._is_told:
            self._is_told = True
            self._status.started(is_up)
