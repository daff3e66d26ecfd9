"""Faults that last: which of them are on, and what that makes of links, disks, workers and manners.

The rule of the file: what holds is worked out anew from all that is on, so that faults compose. Two partitions that share a
link keep it cut until both have ended; of two slow links on one pair the later counts; factors multiply.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from protocols.ids import PeerId
from simulations.cluster.cabling import as_link, link_between
from simulations.cluster.cluster import Cluster
from simulations.cluster.node import SimulatedNode
from simulations.network.links import Link
from simulations.scenarios.faults import DiskFull, DiskSlow, Lie, Partition, SlowLink, WorkerSlow
from simulations.scenarios.script import LinkSpec

Lasting = Partition | SlowLink | DiskFull | DiskSlow | Lie | WorkerSlow
Pair = tuple[str, str]
PeerPair = tuple[PeerId, PeerId]


class Conditions:
    """What lasts in a cluster. `write(node)` is called before every write to a disk that is slow."""

    def __init__(self, cluster: Cluster, write: Callable[[SimulatedNode], None]) -> None:
        self._cluster = cluster
        self._write = write
        self._on: list[Lasting] = []
        self._cut: dict[PeerPair, None] = {}
        self._slowed: dict[PeerPair, Link] = {}

    def begin(self, fault: Lasting) -> None:
        self._on.append(fault)
        self.apply()

    def end(self, fault: Lasting) -> None:
        """Nothing happens if it has ended."""
        self._on = [each for each in self._on if each is not fault]
        self.apply()

    def end_all(self) -> None:
        self._on.clear()
        self.apply()

    def is_on(self, fault: Lasting) -> bool:
        return any(each is fault for each in self._on)

    def apply(self) -> None:
        """To the machines as they are now: one that has lost its disk has another peer id, a new process another worker."""
        self._apply_cuts()
        self._apply_links()
        for node in self._cluster.nodes.values():
            self._apply_to(node)

    # Links -----------------------------------------------------------------------------------------------------------

    def _apply_cuts(self) -> None:
        internet = self._cluster.internet
        partitions = [fault for fault in self._on if isinstance(fault, Partition)]
        wanted = dict.fromkeys(self._peers(pair) for fault in partitions for pair in severed(fault))
        stand = dict.fromkeys(way for way in self._cut if way in wanted)
        for source, target in self._cut:
            if (source, target) not in wanted:
                internet.mend(source, target)
                stand.pop((target, source), None)  # which that has mended as well
        for source, target in wanted:
            if (source, target) not in stand:
                internet.cut_one_way(source, target)
        self._cut = wanted

    def _apply_links(self) -> None:
        links = self._cluster.internet.links
        slowed = {
            self._peers(pair): self._slowed_link(fault, pair)
            for fault in self._on
            if isinstance(fault, SlowLink)
            for pair in self._slow_pairs(fault)
        }
        for source, target in self._slowed:
            if (source, target) not in slowed:
                links.reset(source, target)
        for (source, target), link in slowed.items():
            if self._slowed.get((source, target)) != link:
                links.set(source, target, link)
        self._slowed = slowed

    def _slow_pairs(self, fault: SlowLink) -> list[Pair]:
        others = [fault.other] if fault.other is not None else [*self._cluster.nodes]
        return [
            pair
            for other in others
            if other != fault.node
            for pair in ((fault.node, other), (other, fault.node))
        ]

    def _slowed_link(self, fault: SlowLink, pair: Pair) -> Link:
        """On top of what the script says of that pair."""
        one, two = (self._cluster.nodes[name].spec for name in pair)
        said = link_between(self._cluster.script.links, one, two) or LinkSpec()
        bandwidths = [mbit for mbit in (said.bandwidth_mbit, fault.bandwidth_mbit) if mbit is not None]
        return as_link(
            LinkSpec(
                latency_ms=said.latency_ms + fault.latency_ms,
                jitter_ms=said.jitter_ms + fault.jitter_ms,
                bandwidth_mbit=min(bandwidths, default=None),
                loss=max(said.loss, fault.loss),
            )
        )

    def _peers(self, pair: Pair) -> PeerPair:
        nodes = self._cluster.nodes
        source, target = nodes[pair[0]].peer, nodes[pair[1]].peer
        assert source is not None, f"{pair[0]} was never started"
        assert target is not None, f"{pair[1]} was never started"
        return source, target

    # Machines --------------------------------------------------------------------------------------------------------

    def _apply_to(self, node: SimulatedNode) -> None:
        mine = [fault for fault in self._on if not isinstance(fault, Partition) and fault.node == node.name]
        node.conduct.lies = frozenset(fault.about for fault in mine if isinstance(fault, Lie))
        node.disk.is_full = any(isinstance(fault, DiskFull) for fault in mine)
        write_s = max((fault.write_s for fault in mine if isinstance(fault, DiskSlow)), default=0.0)
        if write_s != node.disk.write_s:
            node.disk.write_s = write_s
            node.disk.on_write = (lambda: self._write(node)) if write_s else None
        if node.process is not None:
            factors = [fault.factor for fault in mine if isinstance(fault, WorkerSlow)]
            node.worker.slow(math.prod(factors))


def severed(partition: Partition) -> list[Pair]:
    """From whom to whom nothing gets through, in a fixed order."""
    groups = partition.groups
    return [
        (source, target)
        for index, group in enumerate(groups)
        for other, others in enumerate(groups)
        if other != index and (index == 0 or not partition.one_way)
        for source in group
        for target in others
    ]
