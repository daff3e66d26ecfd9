"""What a running node can be asked about its peers: the shapes behind `weft peers`, part of `node.api`.

Structs go out as JSON with these field names, so that they are an interface of users as well.
"""

from __future__ import annotations

import msgspec

from protocols.ids import PeerId


class PeerHealth(msgspec.Struct, frozen=True):
    """By a node's own account, not half a minute old. `load` is the busy share of the machine."""

    load: float
    loop_lag_ms: float
    memory_free_bytes: int
    memory_total_bytes: int
    sessions: int
    queue: int


class Peer(msgspec.Struct, frozen=True):
    """`score` in 0..1 is what it is chosen by: 1 has nothing against it, 0 computed wrongly. Counts fade with time.

    `failed` includes refusals and disputes. `rtt_ms` as this node measured it; None: not known.
    """

    peer: PeerId
    name: str
    state: str
    score: float
    served: float
    failed: float
    late: float
    wrong: float
    ranges: tuple[str, ...]
    health: PeerHealth | None = None
    rtt_ms: float | None = None


class PeerFacet(msgspec.Struct, frozen=True):
    """Weighted evidence for and against, of this node's own and what counts of others'; `lower_bound` follows from all."""

    facet: str
    own_good: float
    own_bad: float
    told_good: float
    told_bad: float
    lower_bound: float


class PeerHappening(msgspec.Struct, frozen=True):
    wall_s: float
    outcome: str
    detail: str


class PeerReport(msgspec.Struct, frozen=True):
    """What `reporter` tells of the peer; of its `claimed` evidence `counted` is taken into the score.

    `agreed` and `contradicted`: on how many peers it was tested against this node's own observations. `group_name`: whom it
    speaks with as one voice.
    """

    reporter: PeerId
    name: str
    group_name: str
    agreed: int
    contradicted: int
    trust: float
    claimed: float
    counted: float
    served: float
    failed: float
    late: float
    wrong: float


class WhyPeer(msgspec.Struct, frozen=True):
    """Why a peer has its score. `overall` is the absolute one; `happenings` has the newest first."""

    peer: Peer
    overall: float
    facets: tuple[PeerFacet, ...]
    happenings: tuple[PeerHappening, ...]
    reports: tuple[PeerReport, ...]
