"""What a script says of links, laid between the machines that it names, whatever identities they have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from protocols.ids import PeerId
from simulations.network.links import Link, Links
from simulations.scenarios.script import LinkSpec, NodeSpec

MBIT_BYTES: Final = 125_000


class Cabling:
    """Lays the ways from and to every peer that it is told of."""

    def __init__(self, links: Links, specs: Sequence[LinkSpec]) -> None:
        self._links = links
        self._specs = specs
        self._ends: dict[PeerId, NodeSpec] = {}

    def connect(self, peer: PeerId, node: NodeSpec) -> None:
        """`node` has this identity from now on; an earlier one of it keeps its ways."""
        for other, there in self._ends.items():
            spec = link_between(self._specs, node, there)
            if other != peer and spec is not None:
                self._links.lay(peer, other, as_link(spec))
                self._links.lay(other, peer, as_link(spec))
        self._ends[peer] = node

    @property
    def ends(self) -> Mapping[PeerId, NodeSpec]:
        """Every identity that a machine has or had."""
        return self._ends


def link_between(specs: Sequence[LinkSpec], one: NodeSpec, two: NodeSpec) -> LinkSpec | None:
    """The last that fits, in either order; None if none does."""
    return next((spec for spec in reversed(specs) if _fits(spec, one, two) or _fits(spec, two, one)), None)


def as_link(spec: LinkSpec) -> Link:
    """One direction of it."""
    bandwidth_bytes_s = math.inf if spec.bandwidth_mbit is None else spec.bandwidth_mbit * MBIT_BYTES
    return Link(spec.latency_ms / 1000, spec.jitter_ms / 1000, bandwidth_bytes_s, spec.loss)


def _fits(spec: LinkSpec, one: NodeSpec, two: NodeSpec) -> bool:
    return _names(spec.one, one) and _names(spec.two, two)


def _names(pattern: str, node: NodeSpec) -> bool:
    kind, _, zone = pattern.rpartition(":")
    return node.zone == zone if kind else pattern in ("*", node.name)
