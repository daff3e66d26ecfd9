"""One run of a script, from nothing to its outcome."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from msgspec.structs import replace

from node import api
from protocols.errors import WeftError
from simulations.cluster.clients import Client, Clients
from simulations.cluster.cluster import UP_WITHIN_S, Cluster
from simulations.cluster.faulting import Faulting
from simulations.determinism import run_deterministically
from simulations.invariants.observer import Observer
from simulations.running.breakage import Breakage
from simulations.running.expectations import missed
from simulations.running.failure import TAIL_EVENTS
from simulations.running.guard import Guard
from simulations.running.logs import LogSink, kept_logs
from simulations.running.outcome import Failover, Outcome, RequestOutcome, Violation
from simulations.running.progress import OnProgress
from simulations.running.progress import Progress as Progress
from simulations.running.world_level import run_at_world_level
from simulations.scenarios.script import Script
from simulations.trace import Trace

BREAKS: Final = "breaks "
"""How the observer begins its events, which repeat the violations."""
COLLECTED_EVERY: Final = (50_000, 200, 10)  # objects, and rounds of the younger generation
LOOK_S: Final = 0.1
"""Of virtual time, between two looks at whether the run is to end."""


def run_script(
    script: Script,
    *,
    trace: Trace | None = None,
    on_progress: OnProgress | None = None,
    on_log: LogSink | None = None,
    stop_at_first: bool = True,
) -> Outcome:
    """Runs it to its end on virtual time, in this thread, at its level; `stop_at_first` violation, so that the trace ends with what led to it.

    Whatever fails in it is a violation and no exception. `on_progress` is called every `LOOK_S` of virtual time, `on_log`
    with what the daemons log. The first SIGINT ends a run in the main thread; its outcome says so. Raises `LocalFault` if
    this version of trio can't be simulated with.
    """
    if script.level == "world":
        return run_at_world_level(script, trace or Trace(), on_progress, stop_at_first=stop_at_first)
    run = _Run(script, trace or Trace(), on_progress, stop_at_first=stop_at_first)
    began_s = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="weft-sim-") as root,
        kept_logs(on_log),
        _seldom_collected(),
        run.guard.interruptible(),
        run.breakage,
    ):
        run_deterministically(run.live, Path(root), seed=script.seed, clock=run.guard.clock)
    return run.outcome(time.perf_counter() - began_s)


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """What lives as long as the mesh is not walked through over and over in search of cycles."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTED_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Run:
    """What is known of one run while it goes on and after it has ended, in whatever way."""

    def __init__(
        self,
        script: Script,
        trace: Trace,
        on_progress: OnProgress | None,
        *,
        stop_at_first: bool,
    ) -> None:
        self.guard = Guard(self._stop)
        self.breakage = Breakage(self.guard)
        self._script = script
        self._trace = trace
        self._on_progress = on_progress
        self._stop_at_first = stop_at_first
        self._scope = trio.CancelScope()
        self._is_whole = False
        self._found: list[Violation] = []
        self._cluster: Cluster | None = None
        self._parts: _Parts | None = None
        self._told = Outcome(script.scenario, script.seed, len(script.nodes), 0.0, 0.0, 0, "")

    async def live(self, root: Path) -> None:
        """From the first node to the last word. What the nodes do while they are stopped counts for nothing."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                try:
                    await self._play(root, nursery)
                finally:
                    self._told = self._tell()
                self._stop_all(nursery.cancel_scope)

    def outcome(self, wall_s: float) -> Outcome:
        """After the end."""
        found = [*self._told.violations, *self.guard.violations, *self.breakage.violations]
        is_whole = self._is_whole and not found
        last = self._trace.recent(_involved(self._script, found)) if found else []
        told = [str(event) for event in last if not event.what.startswith(BREAKS)]
        return replace(
            self._told,
            wall_s=wall_s,
            violations=tuple(found),
            missed=missed(self._script, self._told.requests, self._told.detections) if is_whole else (),
            tail=tuple(told[-TAIL_EVENTS:]),
            interrupted=self.guard.is_interrupted and not self._is_whole,
        )

    async def _play(self, root: Path, nursery: trio.Nursery) -> None:
        cluster = self._cluster = Cluster(self._script, root, self._trace, nursery)
        if not await self._comes_up(cluster):
            return
        clients = Clients(cluster)
        parts = self._parts = _Parts(clients, Faulting(cluster), Observer(cluster, clients, self._trace))
        nursery.start_soon(parts.observer.run)
        nursery.start_soon(parts.faulting.run)
        nursery.start_soon(clients.run)
        until_s = cluster.started_at_s + self._script.duration_s
        while trio.current_time() < until_s:
            await trio.sleep_until(min(trio.current_time() + LOOK_S, until_s))
            if self._on_progress is not None:
                self._on_progress(parts.progress(until_s, self._trace.events))
            if parts.observer.violations and self._stop_at_first:
                return
        parts.observer.finish()
        self._is_whole = True

    async def _comes_up(self, cluster: Cluster) -> bool:
        try:
            await cluster.start()
        except trio.TooSlowError:
            up = ", ".join(node.name for node in cluster.up)
            self._found.append(
                _not_up(f"not within {UP_WITHIN_S:g} virtual s; those that run: {up or 'none'}")
            )
        except WeftError as error:
            self._found.append(_not_up(str(error)))
        else:
            return True
        return False

    def _stop(self) -> None:
        self._stop_all(self._scope)

    def _stop_all(self, scope: trio.CancelScope) -> None:
        """Nodes that are paused as well: they would never hear of it."""
        if self._cluster is not None:
            self._cluster.pauses.resume_all()
        scope.cancel()

    def _tell(self) -> Outcome:
        told = replace(
            self._told,
            virtual_s=trio.current_time(),
            events=self._trace.events,
            digest=self._trace.digest,
            violations=tuple(self._found),
        )
        return told if self._parts is None else self._parts.told(told)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What goes on in a mesh that has come up."""

    clients: Clients
    faulting: Faulting
    observer: Observer

    def progress(self, until_s: float, events: int) -> Progress:
        sessions = sum(client.status is None for client in self.clients.all)
        return Progress(trio.current_time(), until_s, events, sessions, len(self.observer.violations))

    def told(self, outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            violations=(*outcome.violations, *self.observer.violations),
            requests=tuple(_told(client) for client in self.clients.all),
            detections=tuple(self.observer.detections),
            marks=tuple(self.faulting.marks),
        )


def _not_up(detail: str) -> Violation:
    sentence = "A mesh of healthy nodes comes up and serves its model."
    return Violation("up", sentence, trio.current_time(), (), detail)


def _involved(script: Script, found: list[Violation]) -> tuple[str, ...]:
    """The nodes of the first violation; all, if it is of none."""
    return found[0].nodes or tuple(node.name for node in script.nodes)


def _told(client: Client) -> RequestOutcome:
    return RequestOutcome(
        client.index,
        client.request.entry,
        client.status or "unfinished",
        client.began_s,
        trio.current_time() if client.ended_s is None else client.ended_s,
        client.detail,
        tuple(at_s for at_s, _ in client.tokens),
        tuple(
            Failover(at_s, event.lost_name, event.to_name, event.pause_ms / 1000, event.reason)
            for at_s, event in client.events
            if isinstance(event, api.Rerouted)
        ),
        client.is_exact,
    )
