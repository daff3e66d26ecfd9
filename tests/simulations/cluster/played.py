"""A script, and a few virtual minutes with the cluster that it makes."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from mesh.liveness.detector import State
from simulations.cluster.clients import Client, Clients
from simulations.cluster.cluster import Cluster
from simulations.cluster.node import SimulatedNode
from simulations.determinism import run_deterministically
from simulations.scenarios.script import LinkSpec, NodeSpec, Request, Script
from simulations.trace import Trace, TraceEvent


def script(
    nodes: int = 3,
    *requests: Request,
    links: tuple[LinkSpec, ...] = (),
    engine: str = "arithmetic",
    memory_mb: int = 1024,
) -> Script:
    specs = tuple(NodeSpec(f"n{index}", memory_mb=memory_mb) for index in range(nodes))
    return Script("test", 1, 600.0, specs, requests=requests, links=links, engine=engine)  # type: ignore[arg-type]


def asking(entry: str, tokens: int = 60, at_s: float = 0.5, **more: float) -> Request:
    return Request(at_s, entry, "hello there", tokens, **more)  # type: ignore[arg-type]


class Stage:
    """A cluster that is up, its clients, and what was noted."""

    def __init__(self, cluster: Cluster, clients: Clients, notes: list[TraceEvent]) -> None:
        self.cluster = cluster
        self.clients = clients
        self.notes = notes

    def __getitem__(self, name: str) -> SimulatedNode:
        return self.cluster.nodes[name]

    @property
    def client(self) -> Client:
        (client,) = self.clients.all
        return client

    def noted(self, name: str) -> list[str]:
        return [event.what for event in self.notes if event.node == name]

    def state(self, watcher: str, watched: str) -> State:
        """What one node makes of another."""
        daemon, peer = self[watcher].daemon, self[watched].peer
        assert daemon is not None
        assert peer is not None
        return daemon.members.state(peer)

    async def crashed(self, name: str, *, back_after_s: float = 1.0) -> None:
        """A crash and a restart."""
        await self[name].crash()
        await trio.sleep(back_after_s)
        assert await self.cluster.restart(self[name])

    async def until(self, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        with trio.fail_after(within_s):
            while not condition():
                await trio.sleep(0.05)


def play(played: Script, act: Callable[[Stage], Awaitable[None]], *, panics: int = 0) -> Stage:
    """Runs `act` beside the clients, with the mesh up, until both have ended."""
    stages: list[Stage] = []

    async def run(root: Path) -> None:
        notes: list[TraceEvent] = []
        async with trio.open_nursery() as nursery:
            cluster = Cluster(played, root, Trace(notes.append), nursery)
            await cluster.start()
            stage = Stage(cluster, Clients(cluster), notes)
            stages.append(stage)
            with trio.fail_after(played.duration_s):
                async with trio.open_nursery() as playing:
                    playing.start_soon(stage.clients.run)
                    playing.start_soon(act, stage)
            nursery.cancel_scope.cancel()
        assert [panic.traceback for panic in cluster.panics[panics:]] == []
        assert cluster.internet.listeners == {}

    with tempfile.TemporaryDirectory() as root:
        run_deterministically(run, Path(root), seed=played.seed)
    return stages[0]
