"""Memory and tasks: what a session took is given back on every hop, soon after it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from inference.sessions.relay import StageKey
from protocols import limits
from simulations.invariants.bounds import DRAINED_S, FREED_S, FREED_UNTOLD_S
from simulations.invariants.invariant import LOOK_S, Breach, always
from simulations.invariants.mesh import Mesh
from simulations.invariants.sight import Sight

_OF_SESSIONS = (
    "inference.sessions.shard",
    "inference.sessions.entry",
    "inference.sessions.held",
    "node.generation",
)
_TASKS_EVERY_S = 5.0


@always("S6", "KV is held for stages that are open, and for no others.", every_s=0.5)
def caches_belong_to_stages(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        if sight.worker_stands_still:
            continue
        pending = sight.pending
        for key in sight.caches():
            if key not in sight.opened and key not in pending:
                detail = f"the worker keeps KV of stage {key[1]} of session {key[0][:8]}, which is not open"
                yield Breach((sight.name,), detail, key, within_s=10 * LOOK_S)


@always("S6", "Rows are taken over from sessions of the same entry alone.", every_s=0.5)
def prefixes_stay_with_their_entry(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for key, makers in sight.makers().items():
            strangers = makers - {sight.entry_of(key)}
            if key in sight.opened and strangers:
                names = ", ".join(sorted(mesh.name_of(peer) for peer in strangers))
                detail = f"stage {key[1]} of session {key[0][:8]} took over rows of sessions of {names}"
                yield Breach((sight.name,), detail, key)


@always("S6", "What is kept of prompts stays within its share, and goes with the shards.", every_s=0.5)
def prefixes_are_bounded(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        kept_bytes, bytes_max = sight.prefix_bytes
        if kept_bytes > bytes_max:
            detail = f"the worker keeps {kept_bytes} bytes of prompts, and may keep {bytes_max}"
            yield Breach((sight.name,), detail)


@always(
    "S6",
    f"When a session ends, every stage lets go of it: within {FREED_S:.0f} s where its entry node lives.",
    every_s=0.5,
)
def ended_sessions_are_let_go(mesh: Mesh) -> Iterator[Breach]:
    for sight, key in _left_open(mesh):
        entry = mesh.by_peer.get(sight.entry_of(key) or sight.peer)
        if entry is not None:
            detail = f"stage {key[1]} of session {key[0][:8]} of {entry.name} is still open"
            yield Breach((sight.name, entry.name), detail, (key, entry.run), FREED_S)


@always(
    "S6",
    f"When an entry node dies, every stage lets go of its sessions: within {FREED_UNTOLD_S:.1f} s, a verdict and a reply.",
    every_s=0.5,
)
def orphaned_sessions_are_let_go(mesh: Mesh) -> Iterator[Breach]:
    for sight, key in _left_open(mesh):
        detail = f"stage {key[1]} of session {key[0][:8]}, whose entry is gone, is still open"
        yield Breach((sight.name,), detail, key, FREED_UNTOLD_S)


def _left_open(mesh: Mesh) -> Iterator[tuple[Sight, StageKey]]:
    """Stages whose session is over, where word of that can come through and something can be done about it."""
    for sight in mesh.awake:
        pending = sight.pending
        for key in sight.opened:
            if key[0] in mesh.entered or key in pending or sight.worker_stands_still:
                continue
            entry = mesh.by_peer.get(sight.entry_of(key) or sight.peer)
            is_reached = entry is None or mesh.are_near(sight.peer, entry.peer)
            if is_reached and (entry is None or entry in mesh.awake):
                yield sight, key


@always(
    "S13", f"No task of a session is left {DRAINED_S:.0f} s after the last one ended.", every_s=_TASKS_EVERY_S
)
def tasks_end_with_their_sessions(mesh: Mesh) -> Iterator[Breach]:
    if mesh.entered or any(sight.opened for sight in mesh.sights.values()):
        return
    for sight in mesh.awake:
        left = Counter(name for name in sight.task_names() if name.startswith(_OF_SESSIONS))
        if left:
            detail = ", ".join(f"{count} {name}" for name, count in sorted(left.items()))
            yield Breach((sight.name,), detail, within_s=DRAINED_S)


@always(
    "S13", "Frames are taken for stages that are open, and for no others; those are forgotten.", every_s=0.5
)
def registrations_end_with_stages(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for key in dict.fromkeys((*sight.registered, *sight.owned)):
            if key not in sight.opened:
                detail = f"stage {key[1]} of session {key[0][:8]} is not open, and not forgotten"
                yield Breach((sight.name,), detail, key, within_s=LOOK_S)


@always("S6", "A request that is over is forgotten by the node that it entered at.", every_s=1.0)
def requests_are_forgotten(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for session in sight.requests:
            if session not in sight.entered:
                detail = f"the request of session {session[:8]} counts as under way, and has no session"
                yield Breach((sight.name,), detail, session, FREED_S)


@always(
    "S13", "Who is not monitored any more is not pinged, nor told of as near or far.", every_s=_TASKS_EVERY_S
)
def pings_end_with_their_subjects(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        pingers = sum(name.endswith("Pinger.run") for name in sight.task_names())
        if pingers > len(sight.pinged) or {*sight.measured, *sight.awaited} - set(sight.pinged):
            detail = f"{pingers} streams of pings and {len(sight.measured)} round trip times, of {len(sight.pinged)} members"
            yield Breach((sight.name,), detail, within_s=_TASKS_EVERY_S)


@always(
    "S13",
    "What has been loaded is not to be stopped any more, and what is open not to be opened.",
    every_s=1.0,
)
def what_is_done_is_forgotten(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        done = sum(
            holding.grant in sight.stoppable and holding.is_loaded is not holding.grant.is_mapped
            for holding in sight.holdings
        )
        if done or sight.opened_streams:
            detail = f"{done} ranges that were loaded, {sight.opened_streams} streams that were opened"
            yield Breach((sight.name,), detail, within_s=2.0)


@always("S13", "A gossip link that was given up ends.", every_s=_TASKS_EVERY_S)
def links_end_with_their_neighbours(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        reading = sum(name.endswith("Link._read") for name in sight.task_names())
        if reading > len(sight.linked):
            detail = f"{reading} gossip links are read, and {len(sight.linked)} are known"
            yield Breach((sight.name,), detail, within_s=limits.GOSSIP_LINK_S + _TASKS_EVERY_S)


@always("S13", "What the failure detector counts as under way is under way.", every_s=_TASKS_EVERY_S)
def errands_are_under_way(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        if not sight.errands:
            continue
        under_way = sum(name.endswith("Watch._run_errand") for name in sight.task_names())
        if sight.errands > under_way + sight.errands_waiting:
            detail = f"{sight.errands} errands are counted, and {under_way} are under way"
            yield Breach((sight.name,), detail, within_s=_TASKS_EVERY_S)


@always("S13", "What is to be sent for a session is forgotten with it.", every_s=1.0)
def outlets_end_with_their_sessions(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for outlet in sight.outlets:
            is_in_use = outlet.session in mesh.entered or any(
                key[0] == outlet.session for key in sight.opened
            )
            if not is_in_use:
                detail = f"an outlet to stage {outlet.stage} of session {outlet.session[:8]} is left"
                yield Breach((sight.name,), detail, (outlet.session, outlet.stage), FREED_S)
