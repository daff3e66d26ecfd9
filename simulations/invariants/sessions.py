"""Sessions over their stages: whoever was left behind in an older epoch changes nothing, and no row is made up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from inference.sessions.events import Phase
from protocols import limits
from protocols.ids import SessionId
from simulations.invariants.bounds import FREED_S
from simulations.invariants.invariant import LOOK_S, Breach, always
from simulations.invariants.mesh import Mesh
from simulations.invariants.sight import replay_of


@always("S3", "A stage serves one epoch after the other, and its epochs only rise.")
def epochs_of_stages_rise(mesh: Mesh) -> Iterator[Breach]:
    for sight, key, stage in mesh.stages:
        before = mesh.before(("stage epoch", sight.name, sight.run, key), stage.epoch)
        if before is not None and before > stage.epoch:
            yield Breach((sight.name,), f"stage {_named(key)} was in epoch {before}, now {stage.epoch}")


@always("S3", "A stage computes rows of its present epoch, and of no other.")
def steps_are_of_their_epoch(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        for number, detail in enumerate(sight.steps_out_of_epoch):
            yield Breach((sight.name,), detail, number)


@always(
    "S3",
    "A stage goes on in a new epoch from where that resumes: what was under way in the one before adds nothing.",
)
def stages_go_on_where_epochs_resume(mesh: Mesh) -> Iterator[Breach]:
    for sight, key, stage in mesh.stages:
        if key[0] not in mesh.entered or stage.opened.epoch == stage.epoch:
            continue
        session = mesh.entered[key[0]][1]
        resumed_at, _ = replay_of(session)
        has_gone_on = sight.computed_last.get(key) == stage.epoch
        if session.epoch == stage.epoch and not has_gone_on and stage.rows > resumed_at:
            detail = f"stage {_named(key)} has {stage.rows} rows, epoch {stage.epoch} resumed at {resumed_at}"
            yield Breach((sight.name,), detail)


@always("S3", "The epoch of a session only rises, and no stage is ahead of it.")
def no_stage_is_ahead_of_its_session(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        before = mesh.before(("session epoch", id_), session.epoch)
        if before is not None and before > session.epoch:
            yield Breach((sight.name,), f"session {id_[:8]} went back from epoch {before} to {session.epoch}")
        for holder, index, stage in mesh.stages_of(id_):
            if stage.epoch > session.epoch:
                detail = f"stage {index} of session {id_[:8]} is in epoch {stage.epoch}, its entry in {session.epoch}"
                yield Breach((holder.name, sight.name), detail)


@always("S3", "At most one node serves a stage of a session in one epoch.")
def stages_have_one_owner(mesh: Mesh) -> Iterator[Breach]:
    owners: defaultdict[tuple[SessionId, int, int], list[str]] = defaultdict(list)
    for sight, (session, index), stage in mesh.stages:
        owners[session, index, stage.epoch].append(sight.name)
    for (session, index, epoch), names in owners.items():
        if len(names) > 1:
            detail = f"stage {index} of session {session[:8]} has {len(names)} owners in epoch {epoch}"
            yield Breach(tuple(sorted(names)), detail)


@always(
    "S3", "A stage has no rows that the one before it has not computed, nor the first any without a token."
)
def rows_come_from_upstream(mesh: Mesh) -> Iterator[Breach]:
    machines = {(key, stage.epoch): (sight, stage) for sight, key, stage in mesh.stages}
    for ((id_, index), epoch), (sight, stage) in machines.items():
        if index == 0:
            if id_ not in mesh.entered or (session := mesh.entered[id_][1]).epoch != epoch:
                continue
            source, rows = mesh.entered[id_][0], len(session.tokens)
        elif ((id_, index - 1), epoch) in machines:
            # A stage that is being rebuilt catches up with the one behind it.
            source, before = machines[(id_, index - 1), epoch]
            rows = max(before.rows, before.forward_from)
        else:
            continue
        if stage.rows > rows:
            detail = f"stage {index} of session {id_[:8]} has {stage.rows} rows, and {rows} were sent"
            yield Breach((sight.name, source.name), detail)


@always("S3", "While a session runs, its entry feeds it in its present epoch alone.")
def entries_feed_in_their_epoch(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for outlet in sight.outlets:
            entry, session = mesh.entered.get(outlet.session, (None, None))
            is_of_entry = outlet.stage == 0 and entry is sight
            if session is None or not is_of_entry or session.phase is not Phase.RUNNING:
                continue
            if outlet.epoch != session.epoch:
                detail = f"session {outlet.session[:8]} is in epoch {session.epoch}, and fed in {outlet.epoch} as well"
                yield Breach((sight.name,), detail, outlet.epoch, within_s=3 * LOOK_S)


@always("S3", "A stage that a session has given up gets no rows of tokens that came after.")
def given_up_stages_stay_behind(mesh: Mesh) -> Iterator[Breach]:
    for sight, (id_, index), stage in mesh.stages:
        if id_ not in mesh.entered:
            continue
        session = mesh.entered[id_][1]
        place = session.places[index] if index < len(session.places) else None
        if place is None or place.peer == sight.peer or stage.epoch >= session.epoch:
            continue
        tokens = mesh.first(("given up", id_, index, sight.name, stage.epoch), len(session.tokens))
        if stage.rows > tokens:
            detail = f"stage {index} of session {id_[:8]} had {tokens} rows to get, and has {stage.rows}"
            yield Breach((sight.name,), detail)


@always("S1", "A replay brings every row that the session has had until then, or says that it can't.")
def replays_are_whole(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        base = session.places[0].base
        if session.phase is not Phase.RUNNING or any(place.base != base for place in session.places):
            continue
        resumed_at, replayed = replay_of(session)
        rows = resumed_at - base
        if rows > 0 and replayed % rows:  # one or more stages have replayed as much each
            detail = (
                f"session {id_[:8]} had {rows} rows in epoch {session.epoch}, and {replayed} were replayed"
            )
            yield Breach((sight.name,), detail, (id_, session.epoch))


@always(
    "S6",
    f"A stage that a session has replaced is let go of within {2 * FREED_S:.0f} s by whoever is told so.",
)
def replaced_stages_are_let_go(mesh: Mesh) -> Iterator[Breach]:
    for holder, (id_, index), stage in mesh.stages:
        sight, session = mesh.entered.get(id_, (None, None))
        if sight is None or session is None or index >= len(session.places):
            continue
        is_awake = holder in mesh.awake and sight in mesh.awake
        if (
            session.places[index].peer != holder.peer
            and is_awake
            and mesh.are_linked(holder.peer, sight.peer)
        ):
            detail = f"{_named((id_, index))} is in epoch {stage.epoch} at {holder.name}, which the session has left"
            yield Breach((holder.name, sight.name), detail, (id_, index), within_s=2 * FREED_S)


@always("S3", "The rows that a stage counts lie in the cache of its worker.", every_s=0.5)
def counted_rows_are_cached(mesh: Mesh) -> Iterator[Breach]:
    holders = {sight.name: sight for sight, _, _ in mesh.stages}
    cached = {name: sight.cached_rows() for name, sight in holders.items() if any(sight.caches())}
    for sight, key, stage in mesh.stages:
        rows = cached.get(sight.name, {}).get(key, stage.rows)
        if rows < stage.rows:
            detail = f"stage {_named(key)} counts {stage.rows} rows, its cache has {rows}"
            yield Breach((sight.name,), detail)


@always("S4", "The route of a running session covers all layers, each exactly once, in order.", every_s=0.5)
def routes_are_contiguous(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        reached = 0
        for place in session.places:
            if place.range.start != reached:
                detail = f"session {id_[:8]} goes from layer {reached} to {place.range}"
                yield Breach((sight.name,), detail)
            reached = place.range.end
        if reached != mesh.script.layers:
            detail = f"session {id_[:8]} covers {reached} of {mesh.script.layers} layers"
            yield Breach((sight.name,), detail)


@always("S3", "While a session runs, its stages serve exactly the ranges of its route.")
def stages_serve_their_places(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        if session.phase is not Phase.RUNNING:
            continue
        for holder, index, stage in mesh.stages_of(id_):
            if stage.epoch != session.epoch:
                continue
            place = session.places[index]
            if (holder.peer, stage.opened.range) != (place.peer, place.range):
                detail = f"stage {index} of session {id_[:8]} is layers {stage.opened.range} there, {place.range} in its route"
                yield Breach((holder.name, sight.name), detail)


@always(
    "S3",
    "A stage that waits for its range is known to the node that loads it: it is not opened twice, and drained like all others.",
)
def stages_that_wait_are_known(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        if sight not in mesh.awake:
            continue  # it has not read yet what became of the stage
        for index, place in enumerate(session.places):
            holder = mesh.by_peer.get(place.peer)
            is_loading = place.busy and not place.opened  # by what it said last
            if not is_loading or holder is None or (id_, index) in holder.opened:
                continue
            loads = any(grant.offer.range == place.range for grant in holder.stoppable)
            if loads and mesh.are_near(sight.peer, holder.peer):
                detail = (
                    f"stage {index} of session {id_[:8]} waits at {holder.name}, which does not know of it"
                )
                yield Breach((holder.name, sight.name), detail, id_, within_s=6 * LOOK_S)


@always("S4", "A session never goes back to a peer that it has lost.")
def lost_peers_stay_out(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        if session.phase is Phase.DONE:
            continue
        for place in session.places:
            if place.peer in session.excluded:
                detail = f"session {id_[:8]} has lost {mesh.name_of(place.peer)} and is to have layers {place.range} there"
                yield Breach((sight.name, mesh.name_of(place.peer)), detail, id_)


@always("S13", "No session outgrows what was reserved for it, nor outlives the failovers it is given.")
def sessions_stay_within_their_order(mesh: Mesh) -> Iterator[Breach]:
    for id_, (sight, session) in mesh.entered.items():
        if len(session.tokens) > session.order.rows_max:
            yield Breach((sight.name,), f"session {id_[:8]} has {len(session.tokens)} tokens")
        if session.failovers > limits.FAILOVERS_MAX and session.phase is not Phase.DONE:
            yield Breach((sight.name,), f"session {id_[:8]} goes on after {session.failovers} failovers")


def _named(key: tuple[SessionId, int]) -> str:
    return f"{key[1]} of session {key[0][:8]}"
