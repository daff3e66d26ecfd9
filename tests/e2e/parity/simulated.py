"""The trial on virtual time: once per seed, each on a mesh of its own."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import trio

from mesh.liveness.detector import State
from node import api
from simulations.chance import chance
from simulations.cluster.cluster import Cluster
from simulations.cluster.node import SimulatedNode
from simulations.determinism import run_deterministically
from simulations.running.logs import kept_logs
from simulations.scenarios.script import LinkSpec, NodeSpec, Script
from simulations.trace import Trace
from tests.e2e.parity.trial import (
    ACTS,
    AT_TOKEN,
    KNOWN_WITHIN_S,
    LAYERS,
    NODES,
    POLL_S,
    PROMPT,
    TOKENS,
    Act,
    Figures,
    Readings,
)

DURATION_S = 300.0
LOOPBACK = LinkSpec(latency_ms=0.05)
BETWEEN_S = (3.0, 5.0)  # drawn, so that the rounds of the detectors are not in step with what is done


def simulate(seed: int, layer_ms: float) -> dict[Act, Figures]:
    """Nodes that take `layer_ms` for a layer, as the real ones say that they do."""
    nodes = tuple(NodeSpec(f"n{number}", layer_ms=layer_ms) for number in range(NODES))
    script = Script("parity", seed, DURATION_S, nodes, layers=LAYERS, links=(LOOPBACK,))
    with tempfile.TemporaryDirectory() as root, kept_logs(None):
        return run_deterministically(partial(_run, script, Path(root)), seed=seed)


async def _run(script: Script, root: Path) -> dict[Act, Figures]:
    rng, figures = chance(script.seed, "parity"), dict[Act, Figures]()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(script, root, Trace(), nursery)
        await cluster.start()
        with trio.fail_after(script.duration_s):
            for act in ACTS:
                await trio.sleep(rng.uniform(*BETWEEN_S))
                figures[act] = (await _Trial(cluster, act).run()).figures
        nursery.cancel_scope.cancel()
    return figures


class _Trial:
    def __init__(self, cluster: Cluster, act: Act) -> None:
        self._cluster = cluster
        self._readings = Readings(act)

    async def run(self) -> Readings:
        readings = self._readings
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask)
            victim = await nursery.start(self._watch)
        if readings.act == "stop":
            victim.resume()
        return readings

    async def _ask(self) -> None:
        entry = next(iter(self._cluster.nodes.values())).daemon
        assert entry is not None
        asked = api.GenerateRequest(self._cluster.model.name, prompt=PROMPT, max_tokens=TOKENS, seed=1)
        async with entry.generate(asked) as events:
            async for event in events:
                match event:
                    case api.Started():
                        self._readings.lost = event.route[len(event.route) // 2].name
                    case api.Token():
                        self._readings.token_at_s.append(trio.current_time())
                    case api.Rerouted():
                        self._readings.moved_from.append(event.lost_name)

    async def _watch(self, *, task_status: trio.TaskStatus[SimulatedNode] = trio.TASK_STATUS_IGNORED) -> None:
        """Does it, and reads until every survivor knows."""
        readings = self._readings
        while len(readings.token_at_s) < AT_TOKEN:
            await trio.sleep(0.001)
        victim = self._cluster.nodes[readings.lost]
        readings.acted_at_s = trio.current_time()
        if readings.act == "kill":
            await victim.crash()
        else:
            victim.pause()
        task_status.started(victim)
        survivors = [node for node in self._cluster.up if node is not victim]
        with trio.fail_after(KNOWN_WITHIN_S):
            while len(readings.known_at_s) < len(survivors):
                for node in survivors:
                    if _holds_dead(node, victim):
                        readings.known_at_s.setdefault(node.name, trio.current_time())
                await trio.sleep(POLL_S)


def _holds_dead(node: SimulatedNode, other: SimulatedNode) -> bool:
    assert node.daemon is not None
    assert other.peer is not None
    return node.daemon.members.state(other.peer) is State.DEAD
