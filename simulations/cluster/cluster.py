"""All machines of a script on one virtual internet, and the model that they serve."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Final

import trio

from mesh.admission.signatures import is_statement_of
from node import api
from protocols.errors import LocalFault, UserError, WeftError
from protocols.ids import PeerId
from simulations.cluster.cabling import Cabling
from simulations.cluster.model import make_model
from simulations.cluster.node import SimulatedNode
from simulations.cluster.process import Panic
from simulations.machine.lying import Conduct
from simulations.machine.pausing import Pauses
from simulations.network.internet import VirtualWorld
from simulations.scenarios.faults import Lie, Upgrade
from simulations.scenarios.script import NodeSpec, Script
from simulations.trace import Trace

UP_WITHIN_S: Final = 120.0
INVITE_S: Final = 3600.0
STATEMENTS_KEPT: Final = 4096
"""Every node checks what all the others sign; whether a signature holds depends on nothing but its bytes."""


class Cluster:
    """`nursery` holds the processes. `root` is a real folder for model files; whoever made it removes it.

    `panics` are the bugs that ended a daemon so far, `pauses` holds whoever is stopped.
    """

    def __init__(self, script: Script, root: Path, trace: Trace, nursery: trio.Nursery) -> None:
        self.script = script
        self.trace = trace
        self.internet = VirtualWorld(seed=script.seed, trace=trace.carried)
        self.internet.keeps_addresses = True
        self.model = make_model(script, root)
        self.pauses = Pauses()
        self.panics: list[Panic] = []
        self.nodes: dict[str, SimulatedNode] = {}
        self.started_at_s = 0.0
        self._cabling = Cabling(self.internet.links, script.links)
        self._is_statement = lru_cache(STATEMENTS_KEPT)(is_statement_of)
        self._root = root
        self._nursery = nursery
        self._dishonest = {fault.node for fault in script.faults if isinstance(fault, Lie | Upgrade)}
        for spec in script.nodes:
            self._make(spec)

    # Who there is ----------------------------------------------------------------------------------------------------

    @property
    def up(self) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.is_up]

    def node_of(self, peer: PeerId) -> str:
        """The name of the node that has or had that identity; empty if none."""
        spec = self._cabling.ends.get(peer)
        return "" if spec is None else spec.name

    # Coming up -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Every node is up and sees every other, and the model is served. Script times count from here.

        Raises `LocalFault` if a node does not come up, what an offer raises, and `trio.TooSlowError`.
        """
        founder, *others = self.nodes.values()
        with trio.fail_after(UP_WITHIN_S):
            await self._bring_up(founder)
            for node in others:  # all at once would make them dial each other over and over
                await self._bring_up(node)
            await self._until_acquainted()
            await self.offer(founder)
        self.started_at_s = trio.current_time()

    async def add(self, spec: NodeSpec) -> SimulatedNode:
        """One more machine, which joins; returns when it is up or given up."""
        node = self._make(spec)
        await self.restart(node)
        return node

    async def restart(self, node: SimulatedNode) -> bool:
        """Start a machine that is down. A home that belongs to no network gets an invite from a node that is up.

        Whether it has come up, as soon as that is clear; one that is on already is left alone.
        """
        if node.is_on:
            return node.is_up
        is_up: bool = await self._nursery.start(node.live, self._invite)
        if not is_up:
            self.trace.note(node.name, "does not come up")
        return is_up

    async def offer(
        self, node: SimulatedNode | None = None, names: tuple[str, ...] = (), patience_s: float = math.inf
    ) -> bool:
        """Have the model served, by default through the first node that is up, on those that the script says; whether all is.
        What takes longer than `patience_s` is withdrawn.

        Raises `WeftError` as `node.api.NodeApi.offer` does.
        """
        node = node or next(iter(self.up), None)
        if node is None or node.process is None:
            return False
        served = trio.Event()
        on = tuple(self.nodes[name].peer or "" for name in names or self.script.offer_on)
        failures: list[WeftError] = []

        async def ask(daemon: api.NodeApi) -> None:
            try:
                with trio.move_on_after(patience_s):
                    async with daemon.offer(self.model.offered(), on=on) as events:
                        async for event in events:
                            if isinstance(event, api.Offered):
                                served.set()
            except WeftError as error:
                failures.append(error)

        if await node.process.asked(ask) and failures:
            raise failures[0]
        if served.is_set():
            self.trace.note(node.name, "the model is served")
        return served.is_set()

    # Inside ----------------------------------------------------------------------------------------------------------

    def _make(self, spec: NodeSpec) -> SimulatedNode:
        node = self.nodes[spec.name] = SimulatedNode(
            spec, self.script.seed, self.internet, self._root, self.trace, pauses=self.pauses,
            panics=self.panics, engines=self.model.engines, is_statement=self._is_statement, learn=self._cabling.connect,
            conduct=Conduct(is_honest=spec.name not in self._dishonest),
        )  # fmt: skip
        return node

    async def _bring_up(self, node: SimulatedNode) -> None:
        if not await self._nursery.start(node.live, self._invite if self.up else _found):
            raise LocalFault(f"{node.name} does not come up")

    async def _invite(self) -> str:
        for node in self.up:
            assert node.daemon is not None
            try:
                return await node.daemon.invite(1, INVITE_S)
            except WeftError:
                continue
        raise UserError("nobody is up who could make an invite")

    async def _until_acquainted(self) -> None:
        for node in self.nodes.values():  # whoever sees all goes on seeing them
            while _known_up(node) < len(self.nodes) - 1:  # noqa: ASYNC110 (seen from outside)
                await trio.sleep(0.1)


async def _found() -> str:
    return ""


def _known_up(node: SimulatedNode) -> int:
    if node.daemon is None:
        return 0
    members = node.daemon.members
    return sum(members.is_up(contact.peer) for contact in members.members())
