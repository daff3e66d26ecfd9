"""Placement: ask what a node can hold, offer it a range, and hear what it claims.

    proposer                                     node
       | Survey(shape of a layer)  ------------->  |
       | <------------------------------- Capacity |   measured layer time, free memory, what is held
       | Offer(term, range, lease) ------------->  |
       | <--------------------- Granted | Declined |   only the node grants its own memory
       | <---------------- Fetching, Loading ...   |   progress
       | <-------------------------------- Claimed |   the range is held and served
       | Release(range)            ------------->  |   the plan failed, or the model is withdrawn

Claims are the truth, plans are advice: a `Claim` is written by its holder alone and gossiped to every member. A node keeps
the highest (term, proposer) it has granted per model and declines lower ones.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.ids import ModelDigest
from protocols.membership import PeerIdText
from protocols.messages import Codec

Digest = Annotated[ModelDigest, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Layer = Annotated[int, msgspec.Meta(ge=0, le=limits.STAGES_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Ms = Annotated[float, msgspec.Meta(ge=0)]
Reason = Annotated[str, msgspec.Meta(max_length=512)]


class LayerRange(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Layers `start` to `end` - 1. Range 0 includes the embedding, the one that ends the model the norm and head."""

    start: Layer
    end: Layer

    def __str__(self) -> str:
        return f"{self.start}-{self.end - 1}"

    @property
    def layers(self) -> int:
        return self.end - self.start


class StandbyKind(StrEnum):
    """MAPPED: weights on disk, packed when it has to serve. HOT: loaded. COLD: nothing is there beforehand."""

    MAPPED = "mapped"
    HOT = "hot"
    COLD = "cold"


class LayerShape(msgspec.Struct, frozen=True, array_like=True):
    """Enough of a model's configuration to time one of its layers."""

    hidden: Annotated[int, msgspec.Meta(ge=1, le=limits.WIDTH_MAX)]
    ffn: Annotated[int, msgspec.Meta(ge=1, le=1 << 18)]
    heads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    kv_heads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    head_dim: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    dtype: Annotated[str, msgspec.Meta(pattern=r"^(f32|bf16|int8|int4)\Z")]


class Survey(msgspec.Struct, frozen=True, array_like=True, tag="survey"):
    model: Digest
    shape: LayerShape


class Capacity(msgspec.Struct, frozen=True, array_like=True, tag="capacity"):
    """`layer_ms` is one measured decode step of one such layer; `layers_max` 0 means no cap by the operator.

    Of the model that was asked about: `held` are the ranges that are loaded, `held_bytes` the memory promised to them, and
    `held_layers` the layers of all its ranges, mapped ones included. None of it counts as free. `disk_free_bytes` is where
    weights are kept; null: unknown. `kv_row_bytes` is what a row of KV takes in one layer there; 0: as the dtype of the model has it.
    """

    layer_ms: Ms
    free_bytes: Count
    layers_max: Count = 0
    has_weights: bool = False
    held: Annotated[tuple[LayerRange, ...], msgspec.Meta(max_length=limits.STAGES_MAX)] = ()
    held_bytes: Count = 0
    held_layers: Count = 0
    disk_free_bytes: Count | None = None
    kv_row_bytes: Count = 0


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer"):
    """Hold this range of this model. `weights_from` serve its manifest and tensors; `bytes_needed` includes KV.

    `kind` says how a standby is to hold it; a mapped one needs the bytes only once it is promoted.
    """

    term: Count
    proposer: PeerIdText
    model: Digest
    range: LayerRange
    standby: bool
    dtype: Annotated[str, msgspec.Meta(pattern=r"^(f32|bf16|int8|int4)\Z")]
    numerics: Annotated[str, msgspec.Meta(pattern=r"^(fast|exact)\Z")]
    bytes_needed: Count
    lease_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    weights_from: Annotated[tuple[PeerIdText, ...], msgspec.Meta(min_length=1, max_length=16)]
    kind: StandbyKind = StandbyKind.HOT


class Granted(msgspec.Struct, frozen=True, array_like=True, tag="granted"):
    term: Count


class Declined(msgspec.Struct, frozen=True, array_like=True, tag="declined"):
    """`layers_max` > 0 tells how many layers it would hold instead; `term` the highest it knows.

    `rival` has a plan of the same model under way there, under `term`.
    """

    reason: Reason
    term: Count = 0
    layers_max: Count = 0
    rival: PeerIdText | None = None


class LoadProgress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """`phase` is 'fetching', 'mapping' or 'loading'."""

    phase: Annotated[str, msgspec.Meta(max_length=16)]
    done_bytes: Count
    total_bytes: Count


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="claim"):
    """`holder` really holds and serves this. `numerics_class` names the arithmetic: equal classes give equal bits.

    `kind` of a standby is how it is held: a mapped one is loaded when a session opens it, and its class may be unknown (empty)
    until then. What is not a standby is always hot.
    """

    holder: PeerIdText
    model: Digest
    range: LayerRange
    standby: bool
    dtype: Annotated[str, msgspec.Meta(max_length=8)]
    numerics: Annotated[str, msgspec.Meta(max_length=8)]
    numerics_class: Annotated[str, msgspec.Meta(max_length=128)]
    layer_ms: Ms
    term: Count
    version: Count = 0
    kind: StandbyKind = StandbyKind.HOT


class Claims(msgspec.Struct, frozen=True, array_like=True):
    """All that one node holds at present, as put together from its words on the topics CLAIMS and MODELS.

    `models` names those of which it keeps the manifest and small files, as (digest, name, layers).
    """

    claims: tuple[Claim, ...]
    models: tuple[ModelNote, ...] = ()


class ModelNote(msgspec.Struct, frozen=True, array_like=True):
    """A model by the name people use for it."""

    digest: Digest
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    layers: Annotated[int, msgspec.Meta(ge=1, le=limits.STAGES_MAX)]


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """A granted range could not be fetched or loaded; the grant is gone."""

    reason: Reason


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Let go of a range granted under this term or a lower one; idempotent.

    `exact`: of this very grant, because the plan failed. What was held before it, or is in another plan as well, stays.
    """

    term: Count
    model: Digest
    range: LayerRange
    exact: bool = False


PlacementMessage = (
    Survey | Capacity | Offer | Granted | Declined | LoadProgress | Claim | LoadFailed | Release
)
PLACEMENT_CODEC: Final[Codec[PlacementMessage]] = Codec(PlacementMessage)
