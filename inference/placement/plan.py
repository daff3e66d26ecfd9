"""What the planner takes and gives: the size of a model, and who is to hold which layers of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocols.ids import PeerId
from protocols.placement import LayerRange


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes as they lie in memory. `kv_bytes` per layer is for the rows that are reserved with every range."""

    name: str
    layers: int
    layer_bytes: int
    embedding_bytes: int = 0
    head_bytes: int = 0
    kv_bytes: int = 0

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
        extra = self.extra_bytes(is_first=held.start == 0, is_last=held.end == self.layers)
        return held.layers * self.bytes_per_layer + extra


def measure_size(
    name: str,
    layers: int,
    range_bytes: Callable[[LayerRange], int],
    kv_bytes_per_row: Callable[[LayerRange], int],
    rows_reserved: int,
) -> ModelSize:
    """The size of a model whose configuration can tell the bytes of any range; all its layers are alike."""
    kv_bytes = kv_bytes_per_row(LayerRange(0, 1)) * rows_reserved
    first_bytes = range_bytes(LayerRange(0, 1))
    if layers == 1:
        return ModelSize(name, layers, first_bytes, kv_bytes=kv_bytes)
    last_bytes = range_bytes(LayerRange(layers - 1, layers))
    # Of two layers neither is bare, and it does not matter which share of both ends is called a layer.
    layer_bytes = range_bytes(LayerRange(1, 2)) if layers > 2 else min(first_bytes, last_bytes)
    return ModelSize(name, layers, layer_bytes, first_bytes - layer_bytes, last_bytes - layer_bytes, kv_bytes)


@dataclass(frozen=True, slots=True, order=True)
class Assignment:
    """One node is to hold one range, as the primary or as the standby; bytes include KV."""

    peer: PeerId
    range: LayerRange
    standby: bool
    bytes_needed: int


@dataclass(frozen=True, slots=True)
class PlannedRange:
    """`step_ms` is what one token takes at the primary; `reason` a sentence for `weft plan`."""

    range: LayerRange
    primary: PeerId
    standby: PeerId | None
    bytes_needed: int
    step_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Contiguous ranges from the first layer to the last. `notes` tell of nodes that got none, and of missing standbys."""

    ranges: tuple[PlannedRange, ...]
    token_ms: float
    notes: tuple[str, ...] = ()

    def primaries(self) -> tuple[Assignment, ...]:
        return tuple(
            Assignment(planned.primary, planned.range, False, planned.bytes_needed) for planned in self.ranges
        )

    def standbys(self) -> tuple[Assignment, ...]:
        return tuple(
            Assignment(planned.standby, planned.range, True, planned.bytes_needed)
            for planned in self.ranges
            if planned.standby is not None
        )

    def assignments(self) -> tuple[Assignment, ...]:
        """Primaries first: they are what has to be there."""
        return self.primaries() + self.standbys()
