"""How long a message takes from one node to another, and whether it gets there.

Streams are reliable: what is lost is sent again after `RTO_MS`, then after twice that, and holds up what comes behind it.
What is sent into a cut way waits for its end; TCP has by then doubled its pauses, so it takes up to as long as the cut has
lasted, `RESUME_MS_MAX` at most, until the bytes move again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from simulations.chance import Chance
from simulations.scenarios.script import LinkSpec, NodeSpec
from simulations.world.agenda import Agenda, Call

RTO_MS: Final = 200
RESUME_MS_MAX: Final = 5_000


class Ways:
    """Between all pairs of nodes, each direction by itself; nodes are numbers. The last of `links` that fits a pair counts."""

    def __init__(
        self, agenda: Agenda, random: Chance, nodes: Sequence[NodeSpec], links: Sequence[LinkSpec]
    ) -> None:
        self._agenda = agenda
        self._random = random
        self._nodes = nodes
        self._specs = (LinkSpec(), *links)
        self._count = len(nodes)
        self._links: dict[int, LinkSpec] = {}
        self._changed: list[tuple[int, int | None, LinkSpec]] = []
        self._free_ms: dict[int, int] = {}  # when the last message that was sent arrives
        self._cuts: dict[int, int] = {}  # how many cuts lie on a way, and since when
        self._cut_since_ms: dict[int, int] = {}
        self._held: dict[int, list[Call]] = {}

    def link(self, source: int, target: int) -> LinkSpec:
        way = source * self._count + target
        if way not in self._links:
            self._links[way] = self._find(source, target)
        return self._links[way]

    def _find(self, source: int, target: int) -> LinkSpec:
        found = self._specs[0]
        one, two = self._nodes[source], self._nodes[target]
        for spec in self._specs:
            if (_fits(spec.one, one) and _fits(spec.two, two)) or (
                _fits(spec.one, two) and _fits(spec.two, one)
            ):
                found = spec
        for node, other, spec in self._changed:
            if {node, other} in ({source, target}, {source, None}, {target, None}):
                found = spec
        return found

    def change(self, node: int, other: int | None, spec: LinkSpec) -> None:
        """Until `restore` with the same; `other` None is everybody."""
        self._changed.append((node, other, spec))
        self._links.clear()

    def restore(self, node: int, other: int | None, spec: LinkSpec) -> None:
        self._changed.remove((node, other, spec))
        self._links.clear()

    # Messages -------------------------------------------------------------------------------------------------------

    def carry(
        self, source: int, target: int, size_bytes: int, what: Any, *args: Any, after_ms: int = 0
    ) -> None:
        """`what(*args)` when the message is there; after `after_ms` it is sent."""
        way = source * self._count + target
        if way in self._cuts:
            self._held.setdefault(way, []).append((what, args))
            return
        sent_ms = self._agenda.now_ms + after_ms
        arrives_ms = max(sent_ms + self._delay_ms(source, target, size_bytes), self._free_ms.get(way, 0))
        self._free_ms[way] = arrives_ms
        self._agenda.at(arrives_ms, what, *args)

    def _delay_ms(self, source: int, target: int, size_bytes: int) -> int:
        spec, draw = self.link(source, target), self._random.random
        delay_ms = spec.latency_ms + spec.jitter_ms * draw()
        if spec.bandwidth_mbit is not None:
            delay_ms += size_bytes * 8 / spec.bandwidth_mbit / 1000
        rto_ms = RTO_MS
        while spec.loss and draw() < spec.loss:
            delay_ms, rto_ms = delay_ms + rto_ms, 2 * rto_ms
        return max(1, round(delay_ms))

    # Cuts -----------------------------------------------------------------------------------------------------------

    def is_cut(self, source: int, target: int) -> bool:
        return source * self._count + target in self._cuts

    @property
    def is_whole(self) -> bool:
        """No way is cut."""
        return not self._cuts

    def cut(self, source: int, target: int) -> None:
        """Nothing gets from `source` to `target`, until as many mends."""
        way = source * self._count + target
        self._cuts[way] = self._cuts.get(way, 0) + 1
        self._cut_since_ms.setdefault(way, self._agenda.now_ms)

    def mend(self, source: int, target: int) -> None:
        way = source * self._count + target
        self._cuts[way] -= 1
        if self._cuts[way]:
            return
        del self._cuts[way]
        lasted_ms = self._agenda.now_ms - self._cut_since_ms.pop(way)
        resumes_ms = self._agenda.now_ms + round(self._random.random() * min(lasted_ms, RESUME_MS_MAX))
        for what, args in self._held.pop(way, []):
            self._agenda.at(resumes_ms, what, *args)
        self._free_ms[way] = max(self._free_ms.get(way, 0), resumes_ms)


def _fits(pattern: str, node: NodeSpec) -> bool:
    if pattern.startswith("zone:"):
        return pattern == f"zone:{node.zone}"
    return pattern in ("*", node.name)
