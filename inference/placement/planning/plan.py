"""What the planner takes and gives: the size of a model, the nodes and links as they are seen, a goal, and who is to hold what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from protocols.ids import PeerId
from protocols.placement import Capacity, LayerRange, StandbyKind

HOP_MS: Final = 1.0  # software on both sides of a hop, before any distance
LINK_BYTES_PER_S: Final = 125e6  # 1 Gbit/s, for links that nobody has measured
REPLICAS_MAX: Final = 4


# What is placed ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes as they lie in memory. `kv_bytes` per layer is for the rows that are reserved with every range.

    `kv_row_bytes` is one row of KV in one layer, `row_bytes` one row as it travels from a range to the next; 0: not known.
    """

    name: str
    layers: int
    layer_bytes: int
    embedding_bytes: int = 0
    head_bytes: int = 0
    kv_bytes: int = 0
    kv_row_bytes: int = 0
    row_bytes: int = 0

    @property
    def bytes_per_layer(self) -> int:
        return self.layer_bytes + self.kv_bytes

    @property
    def whole(self) -> LayerRange:
        return LayerRange(0, self.layers)

    def extra_bytes(self, *, is_first: bool, is_last: bool) -> int:
        """What a range needs besides its layers."""
        return (self.embedding_bytes if is_first else 0) + (self.head_bytes if is_last else 0)

    def bytes_of(self, held: LayerRange) -> int:
        """Weights and KV."""
        return self.weight_bytes(held) + held.layers * self.kv_bytes

    def weight_bytes(self, held: LayerRange) -> int:
        extra = self.extra_bytes(is_first=held.start == 0, is_last=held.end == self.layers)
        return held.layers * self.layer_bytes + extra

    def at(self, capacity: Capacity) -> ModelSize:
        """The same model at a node, whose caches may lie in another form."""
        if not (capacity.kv_row_bytes and self.kv_row_bytes):
            return self
        rows = self.kv_bytes // self.kv_row_bytes
        return replace(self, kv_bytes=capacity.kv_row_bytes * rows, kv_row_bytes=capacity.kv_row_bytes)

    def reserving(self, rows: int) -> ModelSize:
        """The same model with KV for that many rows; only for sizes that know `kv_row_bytes`."""
        return replace(self, kv_bytes=self.kv_row_bytes * rows) if self.kv_row_bytes else self


def measure_size(
    name: str,
    layers: int,
    range_bytes: Callable[[LayerRange], int],
    kv_bytes_per_row: Callable[[LayerRange], int],
    rows_reserved: int,
    row_bytes: int = 0,
) -> ModelSize:
    """The size of a model whose configuration can tell the bytes of any range; all its layers are alike."""
    kv_row_bytes = kv_bytes_per_row(LayerRange(0, 1))
    first_bytes = range_bytes(LayerRange(0, 1))
    last_bytes = range_bytes(LayerRange(layers - 1, layers))
    # Of two layers neither is bare, and it does not matter which share of both ends is called a layer.
    layer_bytes = range_bytes(LayerRange(1, 2)) if layers > 2 else min(first_bytes, last_bytes)
    return ModelSize(
        name,
        layers,
        layer_bytes,
        embedding_bytes=first_bytes - layer_bytes,
        head_bytes=last_bytes - layer_bytes,
        kv_bytes=kv_row_bytes * rows_reserved,
        kv_row_bytes=kv_row_bytes,
        row_bytes=row_bytes,
    )


# Where it can go -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeView:
    """What the proposer knows of a node. Its capacity is what remains beside the other models that it holds.

    `score` is its reputation and `load` the busy share of its time, both 0 to 1; `score_reason` is the evidence in words.
    `domain` is what it fails together with. `disk_free_bytes` None: unknown; `holds` are weights of this model on its disk,
    which may be replaced by others of it. `weights_bytes_s` is the pace at which weights get from its disk into memory.
    A node with `refused` is left out, for that reason.
    """

    capacity: Capacity
    score: float = 1.0
    load: float = 0.0
    domain: str = ""
    disk_free_bytes: int | None = None
    holds: tuple[LayerRange, ...] = ()
    weights_bytes_s: float | None = None
    score_reason: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One way: `hop_ms` with the software at both ends, and the pace of bytes."""

    hop_ms: float = HOP_MS
    bytes_per_s: float = LINK_BYTES_PER_S

    def row_ms(self, row_bytes: int) -> float:
        """The part of a hop that the bytes take; no two rows share it."""
        return row_bytes / max(self.bytes_per_s, 1.0) * 1e3


@dataclass(frozen=True, slots=True)
class LinkTable:
    """Links by pair, in whichever direction they are listed; `default` is for the pairs that are not."""

    links: Mapping[tuple[PeerId, PeerId], Link] = field(default_factory=lambda: MappingProxyType({}))
    default: Link = field(default_factory=Link)

    def between(self, one: PeerId, other: PeerId) -> Link:
        """A peer reaches itself at once."""
        if one == other:
            return _SELF
        return self.links.get((one, other)) or self.links.get((other, one)) or self.default


_SELF: Final = Link(0.0, float("inf"))


class Strategy(StrEnum):
    """INTERACTIVE: the least time per token of one stream. THROUGHPUT: the quickest slowest stage, then the least time.

    CROSS_NODE_BALANCED: every node that can takes part, each as long at work as the others.
    """

    INTERACTIVE = "interactive"
    THROUGHPUT = "throughput"
    CROSS_NODE_BALANCED = "cross_node_balanced"


class StandbyPolicy(StrEnum):
    """AUTO: mapped where disk allows, else hot in memory that nobody needs, else cold. The others: that kind or none."""

    AUTO = "auto"
    HOT = "hot"
    MAPPED = "mapped"
    COLD = "cold"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Goal:
    """`replicas` copies of every range, the primary included. `only` these nodes; empty: all.

    `rows_reserved` of KV with every range; None: as many as the size of the model counts already.
    """

    strategy: Strategy = Strategy.CROSS_NODE_BALANCED
    replicas: int = 2
    standby: StandbyPolicy = StandbyPolicy.AUTO
    only: frozenset[PeerId] = frozenset()
    rows_reserved: int | None = None


# The plan ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Assignment:
    """One node is to hold one range, as the primary or as a standby; the bytes are of memory and include KV.

    `kind` says how a standby holds it; a primary is always hot.
    """

    peer: PeerId
    range: LayerRange
    standby: bool
    bytes_needed: int
    kind: StandbyKind = StandbyKind.HOT


@dataclass(frozen=True, slots=True)
class PlannedStandby:
    """`bytes_needed` is the memory it takes while it stands by, `promoted_bytes` once it serves.

    `pause_ms` is to be expected from the loss of the primary until it serves; `reason` says what that consists of.
    """

    peer: PeerId
    kind: StandbyKind
    bytes_needed: int
    promoted_bytes: int
    pause_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedRange:
    """`compute_ms` is what one token takes at the primary, `hop_ms` its way there from the range before or from the entry."""

    range: LayerRange
    primary: PeerId
    bytes_needed: int
    compute_ms: float
    hop_ms: float
    reason: str
    standbys: tuple[PlannedStandby, ...] = ()

    @property
    def standby(self) -> PeerId | None:
        """The one that takes over first."""
        return self.standbys[0].peer if self.standbys else None

    @property
    def step_ms(self) -> float:
        return self.compute_ms


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node holds no range of its own."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Contiguous ranges from the first layer to the last. `notes` tell of missing standbys.

    `token_ms` of one stream is the compute and hops of all ranges and `return_ms` from the last one to the entry.
    `tokens_per_s` is of many streams, bounded by the slowest stage or link; 0 if none takes any time.
    `entry_serves_if_lost`: the entry has memory for
    any range that it does not hold.
    """

    ranges: tuple[PlannedRange, ...]
    token_ms: float
    notes: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    return_ms: float = 0.0
    tokens_per_s: float = 0.0
    entry_serves_if_lost: bool = False

    @property
    def compute_ms(self) -> float:
        return sum(planned.compute_ms for planned in self.ranges)

    @property
    def hop_ms(self) -> float:
        """All hops of one token, the one back to the entry included."""
        return sum(planned.hop_ms for planned in self.ranges) + self.return_ms

    def primaries(self) -> tuple[Assignment, ...]:
        return tuple(
            Assignment(planned.primary, planned.range, False, planned.bytes_needed) for planned in self.ranges
        )

    def standbys(self) -> tuple[Assignment, ...]:
        """Those that have something to hold beforehand: cold ones have not."""
        return tuple(
            Assignment(standby.peer, planned.range, True, standby.bytes_needed, standby.kind)
            for planned in self.ranges
            for standby in planned.standbys
            if standby.kind is not StandbyKind.COLD
        )

    def assignments(self) -> tuple[Assignment, ...]:
        """Primaries first: they are what has to be there."""
        return self.primaries() + self.standbys()
