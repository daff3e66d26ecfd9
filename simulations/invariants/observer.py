"""Looks at a whole mesh while it runs, without any node noticing, and says what contradicts the invariants.

It reads; it calls nothing that changes or waits for anything in a node. What is cheap is looked at every `LOOK_S` of virtual
time, which misses nothing that a client heard, since its log is read whole; what is not, as often as it says itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

import trio

from simulations.cluster.clients import Clients
from simulations.cluster.cluster import Cluster
from simulations.invariants.catalogue import ALL
from simulations.invariants.detection import Detections
from simulations.invariants.invariant import LOOK_S, Breach, Invariant, When
from simulations.invariants.mesh import Mesh
from simulations.running.outcome import Detection, Violation
from simulations.trace import Trace

VIOLATIONS_MAX: Final = 200
"""Past that, nobody reads them."""
DETECTED_EVERY: Final = 3  # looks

_Standing = tuple[tuple[str, ...], Hashable]


class Observer:
    """`run` beside a script, and `finish` at its end. Every invariant is told once per nodes, until it held again."""

    def __init__(
        self, cluster: Cluster, clients: Clients, trace: Trace, invariants: Sequence[Invariant] = ALL
    ) -> None:
        self.violations: list[Violation] = []
        self._mesh = Mesh(cluster, clients, trace)
        self._trace = trace
        self._watches = [_Watch(invariant, place) for place, invariant in enumerate(invariants)]
        self._due = _schedule(self._watches)
        self._detections = Detections()
        self._looks = 0

    @property
    def detections(self) -> list[Detection]:
        return self._detections.all

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """Once, at everything that is due."""
        mesh = self._mesh
        mesh.refresh()
        self._looks += 1
        if self._looks % DETECTED_EVERY == 0:
            self._detections.look(mesh)
        is_settled = mesh.settled_at_s is not None and mesh.now >= mesh.settled_at_s
        for watch in self._due[self._looks % len(self._due)]:
            if is_settled or watch.invariant.when is When.ALWAYS:
                self._tell(watch)

    def finish(self) -> None:
        """A last look, at everything: what holds at the end alone as well."""
        self._mesh.refresh()
        self._detections.look(self._mesh)
        is_settled = self._mesh.settled_at_s is not None and self._mesh.now >= self._mesh.settled_at_s
        for watch in self._watches:
            if watch.invariant.when is not When.SETTLED or is_settled:
                self._tell(watch)

    def _tell(self, watch: _Watch) -> None:
        for breach in watch.look(self._mesh):
            invariant = watch.invariant
            if len(self.violations) < VIOLATIONS_MAX:
                self.violations.append(
                    Violation(invariant.id, invariant.sentence, self._mesh.now, breach.nodes, breach.detail)
                )
                for node in breach.nodes:
                    self._trace.note(node, f"breaks {invariant.id}: {breach.detail}")


def _schedule(watches: Sequence[_Watch]) -> list[list[_Watch]]:
    """What is due at each look, until it is all the same again."""
    period = math.lcm(*(watch.every for watch in watches))
    return [[watch for watch in watches if watch.is_due(look)] for look in range(period)]


class _Watch:
    """One invariant: which breaches stand since when, and which were told."""

    def __init__(self, invariant: Invariant, place: int) -> None:
        self.invariant = invariant
        self.every = max(1, round(invariant.every_s / LOOK_S))  # looks
        self._place = place
        self._since: dict[_Standing, float] = {}
        self._told: dict[tuple[str, ...], None] = {}

    def is_due(self, looks: int) -> bool:
        """Not all that are looked at rarely at the same look."""
        return self.invariant.when is not When.END and (looks + self._place) % self.every == 0

    def look(self, mesh: Mesh) -> list[Breach]:
        """Breaches to tell now."""
        breaches = tuple(self.invariant.check(mesh))
        if not (breaches or self._since):
            return []  # as nearly always
        since: dict[_Standing, float] = {}
        told: dict[tuple[str, ...], None] = {}
        news: list[Breach] = []
        for breach in breaches:
            standing = (breach.nodes, breach.key)
            since[standing] = self._since.get(standing, mesh.now)
            if mesh.now - since[standing] < breach.within_s:
                continue
            if breach.nodes not in self._told and breach.nodes not in told:
                news.append(breach)
            told[breach.nodes] = None
        self._since, self._told = since, told
        return news
