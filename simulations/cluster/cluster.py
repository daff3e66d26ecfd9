"""All machines of a script on one virtual internet, and the model that they serve."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

from node import api
from protocols.errors import WeftError
from simulations.cluster.model import write_model
from simulations.cluster.node import SimulatedNode
from simulations.network.internet import VirtualWorld
from simulations.scenarios.script import Script
from simulations.trace import Trace

UP_WITHIN_S: Final = 120.0


class Cluster:
    """`nursery` holds the processes. `root` is a real folder for model files; whoever made it removes it."""

    def __init__(self, script: Script, root: Path, trace: Trace, nursery: trio.Nursery) -> None:
        self.script = script
        self.trace = trace
        self.internet = VirtualWorld()
        self.nodes = {
            spec.name: SimulatedNode(spec, script.seed, self.internet, root, trace) for spec in script.nodes
        }
        self.started_at_s = 0.0
        self._root = root
        self._nursery = nursery

    @property
    def up(self) -> list[SimulatedNode]:
        return [node for node in self.nodes.values() if node.is_up]

    async def start(self) -> None:
        """Every node is up and sees every other, and the model is served. Script times count from here."""
        founder, *others = self.nodes.values()
        with trio.fail_after(UP_WITHIN_S):
            first = await self._nursery.start(founder.live)
            for node in others:
                await self._nursery.start(node.live, await first.invite(1, 3600))
            while any(self._known_up(node) < len(others) for node in self.up):  # noqa: ASYNC110 (seen from outside)
                await trio.sleep(0.1)
            await self._offer(founder)
        self.started_at_s = trio.current_time()

    async def restart(self, node: SimulatedNode) -> None:
        """A new process on a machine that has none. One that lost its disk gets a new invite from a node that is up."""
        invite = "" if node.disk.files else await self._invite()
        try:
            await self._nursery.start(node.live, invite)
        except WeftError as error:
            self.trace.note(node.name, f"does not come up: {error}")

    async def _invite(self) -> str:
        for node in self.up:
            assert node.daemon is not None
            try:
                return await node.daemon.invite(1, 3600)
            except WeftError:
                continue
        return ""

    async def _offer(self, node: SimulatedNode) -> None:
        folder = write_model(self._root / "model", self.script.layers)
        assert node.daemon is not None
        async with node.daemon.offer(str(folder)) as events:
            async for event in events:
                if isinstance(event, api.Offered):
                    self.trace.note(node.name, "the model is served")

    @staticmethod
    def _known_up(node: SimulatedNode) -> int:
        assert node.daemon is not None
        return sum(member.up for member in node.daemon.status().members)
