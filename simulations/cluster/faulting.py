"""Carries out the faults of a script on a cluster, and undoes them.

Each fault has a task of its own. What lasts is composed by `Conditions`; what ends a process leads to a start when it is due,
unless somebody else has started the machine by then. At `settled_at_s` everything that lasts ends, clocks are set right, and
whoever of the core is down comes up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, assert_never

import trio

from protocols.errors import WeftError
from simulations.cluster.cluster import Cluster
from simulations.cluster.conditions import Conditions, Lasting
from simulations.cluster.node import SimulatedNode
from simulations.cluster.process import Process
from simulations.machine.worker import VirtualWorker
from simulations.running.outcome import Mark
from simulations.scenarios.faults import (
    ClockJump,
    Crash,
    DiskFull,
    DiskSlow,
    Fault,
    Leave,
    Lie,
    Offer,
    Partition,
    Pause,
    Reset,
    SlowLink,
    Stall,
    Upgrade,
    WorkerCrash,
    WorkerHang,
    WorkerSlow,
)

REAPPLY_S: Final = 0.25  # while something lasts: to processes and identities that are new


class Faulting:
    """Of one run of the cluster's script. `run` after `cluster.start()`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._conditions = Conditions(cluster, self._wait_for_disk)
        self._settled = trio.Event()
        self._starting: dict[str, None] = {}
        self._hangs: list[VirtualWorker] = []
        self._writing_until_s: dict[str, float] = {}
        self._marks: list[tuple[float, float | None, str]] = []
        self._nursery: trio.Nursery | None = None

    @property
    def marks(self) -> list[Mark]:
        """What has befallen the cluster so far, in order; what lasts still does so until now."""
        now = trio.current_time()
        return [
            Mark(at_s, now if until_s is None else until_s, label) for at_s, until_s, label in self._marks
        ]

    async def run(self) -> None:
        """Returns when all is over, and what has to be up is up."""
        script = self._cluster.script
        async with trio.open_nursery() as self._nursery:
            for fault in script.faults:
                self._nursery.start_soon(self._befall, fault)
            if script.settled_at_s is not None:
                await trio.sleep_until(self._cluster.started_at_s + script.settled_at_s)
                self._settle(self._nursery)

    # One fault after the other ---------------------------------------------------------------------------------------

    async def _befall(self, fault: Fault) -> None:
        await trio.sleep_until(self._cluster.started_at_s + fault.at_s)
        with self._marked(fault):
            match fault:
                case Partition() | SlowLink() | DiskFull() | DiskSlow() | Lie() | WorkerSlow():
                    await self._last(fault)
                case Reset(node=node, other=other):
                    self._reset(node, other)
                case _:
                    await self._befall_node(fault, self._cluster.nodes[fault.node])

    async def _befall_node(
        self,
        fault: Crash | Leave | Pause | Stall | WorkerCrash | WorkerHang | ClockJump | Upgrade | Offer,
        node: SimulatedNode,
    ) -> None:
        match fault:
            case Crash(restart_s=restart_s, silent=silent, disk=disk):
                await node.crash(disk, silent=silent)
                await self._start_again(node, restart_s)
            case Leave(restart_s=restart_s):
                await node.leave()
                await self._start_again(node, restart_s)
            case Upgrade(minor=minor, restart_s=restart_s):
                await node.leave()
                node.conduct.minor = minor
                await self._start_again(node, restart_s)
            case Pause(for_s=for_s):
                await self._pause(node, for_s)
            case Stall():
                await self._stall(node, fault)
            case WorkerCrash():
                if node.process is not None:
                    node.worker.crash()
            case WorkerHang(for_s=for_s):
                await self._hang(node, for_s)
            case ClockJump(by_s=by_s, drift_ppm=drift_ppm):
                node.clock.jump(by_s)
                node.clock.drift(drift_ppm)
            case Offer(on=on, patience_s=patience_s):
                await self._offer(node, on, patience_s)
            case _:
                assert_never(fault)

    @contextmanager
    def _marked(self, fault: Fault) -> Iterator[None]:
        label = described(fault)
        self._cluster.trace.note(_first_named(fault), f"fault: {label}")
        index, at_s = len(self._marks), trio.current_time()
        self._marks.append((at_s, None, label))
        try:
            yield
        finally:
            self._marks[index] = at_s, trio.current_time(), label

    # What lasts ------------------------------------------------------------------------------------------------------

    async def _wait(self, for_s: float) -> None:
        """So long, but not longer than until everything has settled."""
        with trio.move_on_after(for_s):
            await self._settled.wait()

    async def _last(self, fault: Lasting) -> None:
        self._conditions.begin(fault)
        until_s = trio.current_time() + fault.for_s
        while self._conditions.is_on(fault) and (rest_s := until_s - trio.current_time()) > 0:
            self._conditions.apply()
            await self._wait(min(REAPPLY_S, rest_s))
        self._conditions.end(fault)

    async def _pause(self, node: SimulatedNode, for_s: float) -> None:
        process = _paused(node)
        if process is not None:
            await self._resume_after(node, process, for_s)

    async def _resume_after(self, node: SimulatedNode, process: Process, for_s: float) -> None:
        await self._wait(for_s)
        if node.process is process:  # or its pauses ended with it
            node.resume()

    async def _stall(self, node: SimulatedNode, stall: Stall) -> None:
        until_s = trio.current_time() + stall.for_s
        while not self._settled.is_set() and trio.current_time() < until_s:
            began_s = trio.current_time()
            await self._pause(node, min(stall.stall_s, until_s - began_s))
            await self._wait(max(0.0, min(began_s + stall.every_s, until_s) - trio.current_time()))

    async def _hang(self, node: SimulatedNode, for_s: float) -> None:
        if node.process is None:
            return
        worker = node.worker
        worker.hang()
        self._hangs.append(worker)
        await self._wait(for_s)
        self._hangs.remove(worker)
        if worker not in self._hangs:
            worker.resume()

    async def _offer(self, node: SimulatedNode, on: tuple[str, ...], patience_s: float) -> None:
        with suppress(WeftError):
            await self._cluster.offer(node, on, patience_s)

    def _wait_for_disk(self, node: SimulatedNode) -> None:
        """A write that blocks: the process stands still until the disk is through with all that it was given."""
        assert self._nursery is not None
        now = trio.current_time()
        begins_s = max(now, self._writing_until_s.get(node.name, 0.0))
        self._writing_until_s[node.name] = until_s = begins_s + node.disk.write_s
        process = _paused(node)
        if process is not None:
            self._nursery.start_soon(self._resume_after, node, process, until_s - now)

    def _reset(self, node: str, other: str) -> None:
        one, two = self._cluster.nodes[node].peer, self._cluster.nodes[other].peer
        if one is not None and two is not None:
            self._cluster.internet.reset(one, two)

    # Up again --------------------------------------------------------------------------------------------------------

    async def _start_again(self, node: SimulatedNode, restart_s: float | None) -> None:
        """After `restart_s`, or once everything has settled if that comes first and the node is of the core."""
        after_s = math.inf if restart_s is None else restart_s
        if self._is_healed(node):
            await self._wait(after_s)
        else:
            await trio.sleep(after_s)
        await self._start(node)

    def _is_healed(self, node: SimulatedNode) -> bool:
        """Whether the script has it come up in the end."""
        script = self._cluster.script
        return script.settled_at_s is not None and (not script.core or node.name in script.core)

    async def _start(self, node: SimulatedNode) -> None:
        if node.is_on or node.name in self._starting:
            return
        self._starting[node.name] = None
        try:
            await self._cluster.restart(node)
        finally:
            del self._starting[node.name]

    def _settle(self, nursery: trio.Nursery) -> None:
        self._settled.set()
        self._conditions.end_all()
        self._cluster.internet.heal()
        for node in self._cluster.nodes.values():
            node.clock.drift(0.0)
            node.clock.jump(node.spec.skew_s - node.clock.skew_s)
            if self._is_healed(node):
                nursery.start_soon(self._start, node)
        core = ", ".join(self._cluster.script.core) or "everybody"
        self._cluster.trace.note(self._cluster.script.nodes[0].name, f"all is mended for {core}")


def _paused(node: SimulatedNode) -> Process | None:
    """The process, if there is one that could be paused once more."""
    process = node.process
    if process is None:
        return None
    before = process.holds
    node.pause()
    return process if process.holds > before else None


def _first_named(fault: Fault) -> str:
    return (
        next((name for group in fault.groups for name in group), "")
        if isinstance(fault, Partition)
        else fault.node
    )


def described(fault: Fault) -> str:
    """A few words for plots and traces."""
    match fault:
        case Crash(node=node, silent=silent, disk=disk):
            how = ("power fails at " if silent else "crash of ") + node
            return how if disk == "kept" else f"{how}, disk {disk.replace('_', ' ')}"
        case Partition(groups=groups, one_way=one_way):
            return (" -/> " if one_way else " | ").join("+".join(group) for group in groups)
        case SlowLink(node=node, other=other):
            return f"slow link {node} - {other or 'all'}"
        case Reset(node=node, other=other):
            return f"reset {node} - {other}"
        case Offer(node=node, on=on):
            return f"{node} offers the model to {'+'.join(on) or 'all'}"
        case Lie(node=node, about=about):
            return f"{node} lies: {about}"
        case Upgrade(node=node, minor=minor):
            return f"upgrade of {node} to 1.{minor}"
        case ClockJump(node=node, by_s=by_s):
            return f"clock of {node} by {by_s:+g} s"
        case _:
            return f"{str(fault.__struct_config__.tag).replace('_', ' ')} of {fault.node}"
