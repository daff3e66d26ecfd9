"""The health digest: what a node says of itself every few seconds, small enough to be gossiped by everybody.

With three ranges and four links it has at most 600 bytes. Its maker leaves out links that would go past that
(`mesh.picture.health`); 32 ranges and 16 links, about 4 KiB, are the most that anybody takes.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.membership import PeerIdText
from protocols.messages import Codec
from protocols.placement import Count, Digest, LayerRange, Ms

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class RangeHealth(msgspec.Struct, frozen=True, array_like=True):
    """A range that is served, and what a decode step of one layer of it takes."""

    model: Digest
    range: LayerRange
    layer_ms: Ms


class LinkHealth(msgspec.Struct, frozen=True, array_like=True):
    """A member as seen over the data plane; 0 bytes/s is not measured."""

    peer: PeerIdText
    rtt_ms: Ms
    bytes_per_s: Annotated[float, msgspec.Meta(ge=0)]


class HealthDigest(msgspec.Struct, frozen=True, array_like=True):
    """`load` is the busy share of the machine, `queue` how many requests wait; `made_ms` is the maker's wall clock."""

    loop_lag_ms: Ms
    memory_free_bytes: Count
    memory_total_bytes: Count
    load: Share
    sessions: Count
    queue: Count
    ranges: Annotated[tuple[RangeHealth, ...], msgspec.Meta(max_length=limits.HEALTH_RANGES_MAX)]
    links: Annotated[tuple[LinkHealth, ...], msgspec.Meta(max_length=limits.HEALTH_LINKS_MAX)]
    made_ms: Count


HEALTH_CODEC: Final[Codec[HealthDigest]] = Codec(HealthDigest)
