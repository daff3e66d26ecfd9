"""Once a core is healed: sessions move, words spread, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Iterator

from inference.sessions.events import Phase
from protocols import limits
from protocols.gossip import Heard, Topic
from protocols.liveness import ITEM_CODEC, Suspect
from simulations.invariants.bounds import (
    FREED_S,
    GOSSIP_S,
    PROGRESS_S,
    STARTED_S,
    TOGETHER_S,
    health_age_s,
)
from simulations.invariants.invariant import Breach, always, settled
from simulations.invariants.mesh import Mesh, Reading, hears
from simulations.invariants.sight import Sight


@settled(
    "L2",
    f"Every request hears something, or of its end, within {PROGRESS_S:.0f} s and what its rows take to compute.",
)
def requests_make_progress(mesh: Mesh) -> Iterator[Breach]:
    for reading, entry in _waiting(mesh):
        detail = f"request {reading.client.index} has heard nothing since {reading.moved_s:.3f} s"
        key = (reading.client.index, reading.events)
        yield Breach((entry.name,), detail, key, PROGRESS_S + _pass_s(mesh))


@settled(
    "L2", f"A new session has its first token within {STARTED_S:.0f} s and what its rows take to compute."
)
def sessions_start(mesh: Mesh) -> Iterator[Breach]:
    """Asked of a core that has had its time to come together, and where no other session keeps the workers busy."""
    assert mesh.settled_at_s is not None
    for reading, entry in _waiting(mesh):
        is_new = reading.client.began_s >= mesh.settled_at_s + TOGETHER_S
        if is_new and not reading.tokens and not reading.fresh_tokens:
            detail = f"request {reading.client.index} has no token since {reading.client.began_s:.3f} s"
            yield Breach((entry.name,), detail, ("start", reading.client.index), STARTED_S + _pass_s(mesh))


@settled("L2", f"The healed core serves whoever asks it, once it has had {TOGETHER_S:.0f} s.")
def the_core_serves(mesh: Mesh) -> Iterator[Breach]:
    """Asked where at most one node has lost what it held: what a holder and its standby have both lost nobody has."""
    assert mesh.settled_at_s is not None
    if sum(not history.has_kept_everything for history in mesh.histories.values()) > 1:
        return
    core = {sight.name for sight in mesh.core}
    for reading in mesh.readings:
        client = reading.client
        is_late = client.began_s >= mesh.settled_at_s + TOGETHER_S
        if is_late and client.request.entry in core and client.status == "failed":
            detail = f"request {client.index} failed: {client.detail}"
            yield Breach((client.request.entry,), detail, client.index)


@settled("L6", f"What a node of the core says reaches all of the core within {GOSSIP_S:.0f} s.", every_s=2.0)
def words_spread(mesh: Mesh) -> Iterator[Breach]:
    for author in mesh.core:
        wall_ms = int(author.node.clock.wall() * 1000)
        words = author.table.authors.get(author.peer)
        for place, word in tuple(words.words.items()) if words else ():
            if word.kept is None or word.heard.made_ms > wall_ms - 1000 * GOSSIP_S:
                continue
            if _is_outgrown(author, word.heard):
                continue
            for other in mesh.core:
                known = other.table.find(author.peer, place)
                if (known is None or known.rank < word.rank) and hears(author, other, limits.HEALTH_TTL_S):
                    detail = f"{other.name} lacks its word on {place[0].name} {place[1][:16]}"
                    # Looked at from the time on when it should be there, and once more.
                    yield Breach((author.name, other.name), detail, (place, word.rank), within_s=GOSSIP_S)


@settled(
    "L6",
    f"Everybody knows how everybody of the core is, from no longer ago than a pause and a tenth, and gossip: {health_age_s(1):.1f} s in a small mesh.",
    every_s=2.0,
)
def health_is_fresh(mesh: Mesh) -> Iterator[Breach]:
    age_max_s = health_age_s(len(mesh.cluster.nodes))
    for sight in mesh.core:
        for other in mesh.core:
            if other is sight or not hears(other, sight, limits.HEALTH_TTL_S):
                continue
            heard_s = sight.health_heard_s(other.peer)
            age_s = mesh.now - heard_s if heard_s is not None else None
            if age_s is None or age_s > age_max_s:
                detail = f"{sight.name} knows {other.name} from {age_s} s ago"
                yield Breach((sight.name, other.name), detail, within_s=TOGETHER_S)


@settled("L7", "Nothing waits for ever: a session that runs gets on, or gives up.")
def sessions_get_on(mesh: Mesh) -> Iterator[Breach]:
    core = {sight.peer for sight in mesh.core}
    for id_, (sight, session) in mesh.entered.items():
        if sight not in mesh.core or not core.issuperset(place.peer for place in session.places):
            continue
        rows = tuple(stage.rows for _, _, stage in mesh.stages_of(id_))
        key = (id_, len(session.tokens), session.epoch, session.phase is Phase.DONE, rows)
        detail = f"session {id_[:8]} is {session.phase.name} in epoch {session.epoch} with {len(session.tokens)} tokens"
        yield Breach((sight.name,), detail, key, PROGRESS_S + _pass_s(mesh))


@settled("L8", "Who waits for credits gets them, or is told that there are none to be had.")
def back_pressure_ends(mesh: Mesh) -> Iterator[Breach]:
    core = {sight.peer for sight in mesh.core}
    for sight in mesh.core:
        for outlet in sight.outlets:
            if outlet.credits or outlet.peer not in core:
                continue
            rows = tuple(stage.rows for _, _, stage in mesh.stages_of(outlet.session))
            detail = f"no credits for stage {outlet.stage} of session {outlet.session[:8]}"
            key = (outlet.session, outlet.stage, outlet.epoch, rows)
            yield Breach((sight.name,), detail, key, PROGRESS_S + _pass_s(mesh))


@always("L2", f"A session that is over is gone from its entry node within {FREED_S:.0f} s.", every_s=0.5)
def ended_sessions_are_forgotten(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        if session.phase is Phase.DONE and sight in mesh.awake:
            yield Breach((sight.name,), f"session {id_[:8]} has ended and is still there", id_, FREED_S)


def _is_outgrown(author: Sight, heard: Heard) -> bool:
    """A suspicion of an incarnation that its subject has left behind says nothing any more: that it was withdrawn is soon
    forgotten, and who starts anew may hear of it again."""
    if heard.topic is not Topic.LIVENESS or not heard.body:
        return False
    item = ITEM_CODEC.decode(heard.body)
    return isinstance(item, Suspect) and author.detector.incarnation_of(item.subject) > item.incarnation


def _waiting(mesh: Mesh) -> Iterator[tuple[Reading, Sight]]:
    """Requests without an end whose entry node is of the core."""
    core = {sight.name: sight for sight in mesh.core}
    for reading in mesh.readings:
        entry = core.get(reading.client.request.entry)
        if reading.client.status is None and entry is not None:
            yield reading, entry


def _pass_s(mesh: Mesh) -> float:
    """What all sessions that run take to pass through all layers once, at the slowest worker, with their longest prompts, and
    one range to load that nobody else has any more."""
    layer_ms = max(spec.layer_ms for spec in mesh.script.nodes)
    row_ms = max(spec.row_ms for spec in mesh.script.nodes)
    rows = [min(len(session.tokens), limits.ROWS_MAX) for _, session in mesh.entered.values()]
    chunks = [-(-count // limits.PREFILL_CHUNK_ROWS) for count in rows]
    load_s = max(spec.load_s for spec in mesh.script.nodes)
    return load_s + mesh.script.layers * (layer_ms * sum(chunks) + row_ms * sum(rows)) / 1000
