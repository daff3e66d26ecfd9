"""Applies the faults of a script to a world, as far as they make sense without daemons."""

from __future__ import annotations

from itertools import product
from typing import assert_never

from protocols.errors import UserError
from simulations.running.outcome import Mark
from simulations.scenarios import faults as f
from simulations.scenarios.faults import Fault
from simulations.scenarios.script import LinkSpec
from simulations.world.node import WorldNode
from simulations.world.world import World

Befalls = f.Crash | f.Leave | f.Pause | f.Stall | f.Partition | f.SlowLink | f.Reset | f.ClockJump
"""What there is in a world."""


class WorldFaults:
    """`marks` are for the plots. Times are those of the script, after `began_s`."""

    def __init__(self, world: World, began_s: float) -> None:
        self._world = world
        self._began_s = began_s
        self._by_name = {node.name: node for node in world.nodes}
        self.marks: list[Mark] = []

    def plan(self, fault: Fault) -> None:
        """Raises `UserError` for what a world has not, or for a node that is not in the script."""
        if not isinstance(fault, Befalls):
            kind = fault.__struct_config__.tag
            raise UserError(f"The world level has no {kind} faults: run the scenario at level 'cluster'.")
        at_s = self._began_s + fault.at_s
        self._world.at(at_s, self._befall, fault)
        self.marks.append(Mark(at_s, at_s + _lasts_s(fault), _label(fault)))
        for name in _names(fault):
            self._node(name)

    def _node(self, name: str) -> WorldNode:
        node = self._by_name.get(name)
        if node is None:
            raise UserError(f"A fault names the node '{name}', and the script has no such node.")
        return node

    def _later(self, for_s: float, what: object, *args: object) -> None:
        assert callable(what)
        self._world.at(self._world.now_s + for_s, what, *args)

    def _befall(self, fault: Befalls) -> None:
        match fault:
            case f.Crash():
                self._crash(fault)
            case f.Leave(node=name, restart_s=restart_s):
                self._world.leave(self._node(name))
                if restart_s is not None:
                    self._later(restart_s + 1.0, self._world.restart, self._node(name))
            case f.Pause(node=name, for_s=for_s):
                self._pause(self._node(name), for_s)
            case f.Stall(node=name):
                self._stall(self._node(name), fault, self._world.now_s + fault.for_s)
            case f.Partition():
                self._partition(fault)
            case f.SlowLink():
                self._slow_link(fault)
            case f.Reset(node=one, other=two):
                self._world.connecting.reset(self._node(one), self._node(two))
            case f.ClockJump(node=name, by_s=by_s, drift_ppm=drift_ppm):
                self._world.observer.disturbed(self._node(name))
                self._node(name).skew_ms += by_s * 1000
                self._node(name).drift_ppm = drift_ppm
            case _:
                assert_never(fault)

    def _crash(self, fault: f.Crash) -> None:
        """The only thing on disk is the incarnation, written whole or not at all: torn and rolled back leave an older one."""
        node = self._node(fault.node)
        self._world.kill(node, silent=fault.silent)
        if fault.disk != "kept":
            node.disk.files.clear()
        if fault.restart_s is not None:
            self._later(fault.restart_s, self._world.restart, node)

    def _pause(self, node: WorldNode, for_s: float) -> None:
        if node.is_awake:
            self._world.pause(node)
            self._later(for_s, self._world.resume, node)

    def _stall(self, node: WorldNode, fault: f.Stall, until_s: float) -> None:
        if self._world.now_s >= until_s:
            return
        self._pause(node, min(fault.stall_s, until_s - self._world.now_s))
        self._later(fault.every_s, self._stall, node, fault, until_s)

    def _partition(self, fault: f.Partition) -> None:
        groups = [[self._node(name) for name in group] for group in fault.groups]
        ways = [
            (source.number, target.number)
            for place, group in enumerate(groups)
            for other, others in enumerate(groups)
            if place != other and (place == 0 or not fault.one_way)
            for source, target in product(group, others)
        ]
        # Everybody hears what the halves say of each other, so nobody's word counts meanwhile.
        nodes = self._world.nodes
        self._world.observer.disturbance_begins(nodes)
        for way in ways:
            self._world.ways.cut(*way)
        self._later(fault.for_s, self._mend, ways, nodes)

    def _mend(self, ways: list[tuple[int, int]], nodes: list[WorldNode]) -> None:
        for way in ways:
            self._world.ways.mend(*way)
        self._world.observer.disturbance_ends(nodes)

    def _slow_link(self, fault: f.SlowLink) -> None:
        spec = LinkSpec(
            latency_ms=fault.latency_ms,
            jitter_ms=fault.jitter_ms,
            bandwidth_mbit=fault.bandwidth_mbit,
            loss=fault.loss,
        )
        one = self._node(fault.node)
        two = None if fault.other is None else self._node(fault.other)
        nodes = [one] if two is None else [one, two]
        args = (one.number, None if two is None else two.number, spec)
        self._world.observer.disturbance_begins(nodes)
        self._world.ways.change(*args)
        self._later(fault.for_s, self._restore, args, nodes)

    def _restore(self, args: tuple[int, int | None, LinkSpec], nodes: list[WorldNode]) -> None:
        self._world.ways.restore(*args)
        self._world.observer.disturbance_ends(nodes)


def _names(fault: Befalls) -> list[str]:
    if isinstance(fault, f.Partition):
        return [name for group in fault.groups for name in group]
    others = [fault.other] if isinstance(fault, f.SlowLink | f.Reset) and fault.other else []
    return [fault.node, *others]


def _lasts_s(fault: Befalls) -> float:
    match fault:
        case f.Pause(for_s=for_s) | f.Stall(for_s=for_s) | f.Partition(for_s=for_s) | f.SlowLink(for_s=for_s):
            return for_s
        case f.Crash(restart_s=restart_s) | f.Leave(restart_s=restart_s):
            return restart_s or 0.0
        case _:
            return 0.0


def _label(fault: Befalls) -> str:
    return f"{fault.__struct_config__.tag} {', '.join(_names(fault)[:4])}"
