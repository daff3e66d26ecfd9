"""Every table of every node below the bound that `protocols.limits` gives it, at every look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Final

from protocols import limits
from simulations.invariants.invariant import Breach, always
from simulations.invariants.mesh import Mesh
from simulations.invariants.sight import Sight

TASKS_AT_REST_MAX: Final = 120
TASKS_PER_PEER_MAX: Final = 24  # two connections, a gossip link, pings, relay streams of two classes each way
TASKS_PER_SESSION_MAX: Final = 16  # for each stage at its holder, and for each at its entry

Measure = Callable[[Sight], int]
_SIZE_BYTES: Final = attrgetter("size_bytes")
_WORDS: Final = attrgetter("words")

CEILINGS: Final[tuple[tuple[str, Measure, int], ...]] = (
    ("members in the book", lambda sight: len(sight.book), limits.MEMBERS_MAX),
    ("certificate chains", lambda sight: sight.chains, limits.CHAINS_KEPT_MAX),
    ("lists of revocations", lambda sight: len(tuple(sight.revocations)), limits.REVOKERS_MAX),
    ("members heard of", lambda sight: len(sight.standings), limits.MEMBERS_MAX),
    ("errands of the detector", lambda sight: sight.errands, limits.WATCH_TASKS_MAX),
    ("gossip authors", lambda sight: len(sight.table.authors), limits.MEMBERS_MAX),
    (
        "bytes of one author",
        lambda sight: max(map(_SIZE_BYTES, sight.table.authors.values()), default=0),
        limits.GOSSIP_AUTHOR_BYTES_MAX,
    ),
    (
        "words of one author",
        lambda sight: max(map(len, map(_WORDS, sight.table.authors.values())), default=0),
        limits.GOSSIP_AUTHOR_ITEMS_MAX,
    ),
    ("gossip neighbours", lambda sight: len(sight.views.active), limits.GOSSIP_ACTIVE_MAX),
    ("recent bundles", lambda sight: len(sight.recent_ids), limits.GOSSIP_RECENT_MAX),
    ("missing bundles", lambda sight: len(sight.missing_ids), limits.GOSSIP_MISSING_MAX),
    ("peers with a rate", lambda sight: sight.rated_peers, 4 * limits.GOSSIP_PASSIVE),
    ("bytes that wait for a link", lambda sight: sight.link_bytes, limits.GOSSIP_LINK_BYTES_MAX),
    (
        "credits of one outlet",
        lambda sight: max((outlet.credits for outlet in sight.outlets), default=0),
        limits.CREDITS_PER_SESSION,
    ),
    ("peers with a record", lambda sight: len(sight.records), limits.MEMBERS_MAX),
    ("peers with reports", lambda sight: len(sight.reports), limits.MEMBERS_MAX),
    (
        "reporters of one peer",
        lambda sight: max(map(len, sight.reports.values()), default=0),
        limits.REPORTERS_PER_PEER_MAX,
    ),
    ("health digests", lambda sight: sight.health_known, limits.MEMBERS_MAX),
    ("holders of claims", lambda sight: sight.claim_holders, limits.MEMBERS_MAX),
    ("ranges granted", lambda sight: len(sight.grants), limits.STAGES_MAX),
    ("models known by rank", lambda sight: len(sight.ranks), limits.MODELS_MAX),
    ("sessions entered", lambda sight: len(sight.entered), limits.SESSIONS_MAX),
    ("stages open", lambda sight: len(sight.opened), limits.SESSIONS_MAX),
)


@always("S13", "Every table and queue of a node is below its bound in protocols/limits.py.", every_s=1.0)
def tables_are_bounded(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        for what, measure, ceiling in CEILINGS:
            count = measure(sight)
            if count > ceiling:
                yield Breach((sight.name,), f"{count} {what}, {ceiling} are allowed", what)


@always("S13", "A node has no more connections than its host allows, nor strangers among them.", every_s=5.0)
def connections_are_bounded(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        held = sight.connections
        strangers = sum([not end.is_member for end in held])
        if len(held) > 2 * limits.MEMBERS_MAX or strangers > limits.STRANGERS_MAX:
            yield Breach((sight.name,), f"{len(held)} connections, {strangers} of strangers")


@always("S13", "No connection carries more streams than its two ends may open.", every_s=5.0)
def streams_are_bounded(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        streams = max([end.streams for end in sight.connections], default=0)
        if streams > 2 * limits.STREAMS_PER_CONNECTION_MAX:
            yield Breach((sight.name,), f"{streams} streams on one connection")


@always(
    "S13", "A stage keeps no more of its upstream's frames, nor of its own, than it promised.", every_s=0.5
)
def stages_are_bounded(mesh: Mesh) -> Iterator[Breach]:
    for sight, (id_, index), stage in mesh.stages:
        if stage.rows > stage.opened.rows_max or stage.journal.rows > stage.opened.rows_max:
            yield Breach((sight.name,), f"stage {index} of session {id_[:8]} has {stage.rows} rows")


@always("S13", "A node has as many tasks as its peers and sessions account for.", every_s=5.0)
def tasks_are_bounded(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        sessions = len(sight.opened) + sum(len(session.places) for session in sight.entered.values())
        allowed = TASKS_AT_REST_MAX + TASKS_PER_PEER_MAX * len(mesh.peers) + TASKS_PER_SESSION_MAX * sessions
        count = len(sight.task_names())
        if count > allowed:
            yield Breach((sight.name,), f"{count} tasks, {allowed} are accounted for", within_s=5.0)
