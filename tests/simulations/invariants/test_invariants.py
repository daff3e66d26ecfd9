"""Every invariant speaks where it is broken, only there, and is silent in a healthy mesh."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import trio

from inference.placement.holding.holdings import HOLDINGS_FILE
from inference.sessions.events import Phase
from mesh.admission import belonging
from mesh.liveness.detector import State
from node import api
from simulations.cluster.clients import Clients
from simulations.cluster.cluster import Cluster
from simulations.determinism import run_deterministically
from simulations.invariants.catalogue import ALL
from simulations.invariants.invariant import Invariant, When
from simulations.invariants.mesh import Mesh
from simulations.invariants.observer import Observer
from simulations.running.outcome import Violation
from simulations.scenarios.script import NodeSpec, Request, Script
from simulations.trace import Trace
from tests.simulations.invariants import breakages as b

BEGINS_S = 31.0  # placement has had its time to converge
LOOKS, LOOK_S = 125, 0.5  # the longest bound is a minute

SCRIPT = Script(
    "broken",
    3,
    BEGINS_S + LOOKS * LOOK_S,
    tuple(NodeSpec(f"n{number}", layer_ms=20.0) for number in range(4)),
    layers=4,
    requests=(
        Request(1.0, "n1", "short", 3),
        Request(BEGINS_S - 1.0, "n1", "once upon a time", 2000),
    ),
    settled_at_s=0.0,
    core=("n0", "n1", "n2", "n3"),
)


def _again(last: api.Token) -> api.GenerateEvent:
    return last


def _elsewhere(last: api.Token) -> api.GenerateEvent:
    return msgspec.structs.replace(last, token=(last.token + 1) % 4096)


def _end(last: api.Token, tokens: int = 7) -> api.GenerateEvent:
    return api.Finished("length", last.position, tokens, 0.0, 0.0, "", "")


def _status(status: str, detail: str = "") -> Callable[[Mesh], AbstractContextManager[None]]:
    return lambda mesh: b.having(mesh.readings[-1].client, "status", status)


BREAKAGES: dict[str, b.Breakage] = {
    "positions_are_dense": partial(b.told, make=_again),
    "text_is_that_of_a_faultless_run": partial(b.told, make=_elsewhere),
    "clients_read_the_log": partial(b.told, make=_elsewhere),
    "logs_only_grow": b.shrunk_log,
    "requests_end_once": lambda mesh: b.having(mesh.readings[0].client, "endings", 2),
    "failovers_are_told_once": partial(b.told, make=b.rerouted),
    "finished_is_whole": partial(b.told, make=_end),
    "failures_have_a_cause": _status("failed"),
    "nobody_is_forgotten": b.task_left,
    "epochs_of_stages_rise": lambda mesh: b.having(b.stage(mesh), "epoch", -1),
    "steps_are_of_their_epoch": lambda mesh: b.having(b.sight(mesh), "steps_out_of_epoch", ["one"]),
    "stages_go_on_where_epochs_resume": b.resumed_earlier,
    "no_stage_is_ahead_of_its_session": lambda mesh: b.having(b.stage(mesh), "epoch", 9),
    "stages_have_one_owner": b.two_owners,
    "rows_come_from_upstream": lambda mesh: b.having(b.stage(mesh), "rows", 5000),
    "entries_feed_in_their_epoch": b.old_feeder,
    "given_up_stages_stay_behind": b.left_behind,
    "counted_rows_are_cached": lambda mesh: b.having(b.stage(mesh), "rows", 5000),
    "routes_are_contiguous": b.gap_in_route,
    "stages_serve_their_places": b.swapped_places,
    "replays_are_whole": b.short_replay,
    "replaced_stages_are_let_go": lambda mesh: b.having(b.session(mesh).places[0], "peer", b.STRANGER),
    "stages_that_wait_are_known": b.unknown_while_loading,
    "lost_peers_stay_out": lambda mesh: b.having(
        b.session(mesh), "excluded", {b.session(mesh).places[0].peer}
    ),
    "sessions_stay_within_their_order": lambda mesh: b.having(b.session(mesh), "failovers", 99),
    "plans_are_granted_in_order": b.falling_rank,
    "plans_do_not_overlap": b.second_primary,
    "memory_is_enough": lambda mesh: b.having(b.sight(mesh).node.worker, "memory_bytes", 0),
    "promises_cover_their_ranges": b.promised_twice,
    "grants_are_used": b.uncovered,
    "claims_are_true": b.released_claim,
    "nodes_tell_what_they_hold": b.untold_ranges,
    "claims_are_of_this_run": b.claim_of_an_earlier_run,
    "claims_of_the_dead_end": b.claim_of_nobody,
    "layers_have_a_primary": b.uncovered,
    "placement_rests": b.another_range,
    "claims_are_known": b.unknown_claims,
    "caches_belong_to_stages": b.cache_kept,
    "prefixes_stay_with_their_entry": b.taken_from_a_stranger,
    "prefixes_are_bounded": b.prompts_kept,
    "ended_sessions_are_let_go": b.stage_kept,
    "orphaned_sessions_are_let_go": partial(b.stage_kept, entry=None),
    "tasks_end_with_their_sessions": b.task_left,
    "registrations_end_with_stages": lambda mesh: b.holding(
        b.sight(mesh)._deliverers,  # type: ignore[arg-type]
        (b.NOBODYS, 0),
        None,
    ),
    "requests_are_forgotten": lambda mesh: b.holding(
        b.sight(mesh).requests,  # type: ignore[arg-type]
        b.NOBODYS,
        None,
    ),
    "pings_end_with_their_subjects": lambda mesh: b.holding(
        b.sight(mesh).daemon.members.watch.rtts_ms, b.STRANGER, 1.0
    ),
    "errands_are_under_way": lambda mesh: b.having(b.sight(mesh).daemon.members.watch, "_errands", 99),
    "outlets_end_with_their_sessions": b.left_outlet,
    "members_are_certified": b.uncertified,
    "identities_are_single": b.twin,
    "keys_are_their_owners": b.wrong_key,
    "books_hold_members_alone": b.stranger_in_book,
    "revocations_spread": b.untold_revocation,
    "verdicts_have_grounds": b.dead_without_grounds,
    "doubts_are_of_others": b.self_doubt,
    "incarnations_were_spoken": b.unspoken,
    "incarnations_rise": b.grown_young,
    "the_core_is_up": b.missing_node,
    "the_core_sees_itself": b.suspected,
    "the_core_is_joined_for_bulk": b.half_joined,
    "neighbours_have_links": lambda mesh: b.lacking(b.sight(mesh).linked),  # type: ignore[arg-type]
    "trees_grow_along_links": b.wild_branch,
    "links_are_to_neighbours": b.link_to_nobody,
    "what_is_done_is_forgotten": b.lock_left,
    "links_end_with_their_neighbours": lambda mesh: b.lacking(b.sight(mesh).linked),  # type: ignore[arg-type]
    "what_has_come_is_not_missed": b.missed_though_here,
    "rings_are_of_the_living": lambda mesh: b.having(b.standing(mesh), "state", State.LEFT),
    "the_dead_are_known": b.missing_node,
    "the_dead_are_remembered": b.forgotten_dead,
    "evidence_adds_up": b.overpraised,
    "happenings_are_noted_once": b.noted_twice,
    "nobody_judges_itself": lambda mesh: b.holding(
        b.sight(mesh).records,  # type: ignore[arg-type]
        b.sight(mesh).peer,
        b.Record(0.0),
    ),
    "the_honest_are_not_distrusted": b.thought_wrong,
    "incarnations_are_reserved": b.beyond_reserve,
    "certificates_are_kept": partial(b.file_gone, name=belonging.FILE),
    "revocations_are_kept": b.untold_revocation,
    "holdings_are_kept": partial(b.file_gone, name=HOLDINGS_FILE),
    "runs_go_on": b.forgetful_run,
    "tables_are_bounded": b.overfull,
    "connections_are_bounded": b.crowded,
    "streams_are_bounded": b.many_streams,
    "stages_are_bounded": lambda mesh: b.having(b.stage(mesh), "rows", 5000),
    "tasks_are_bounded": lambda mesh: b.having(b.sight(mesh), "task_names", lambda: ["a task"] * 5000),
    "nobody_panics": b.panic,
    "handlers_have_no_bugs": b.bug_in_handler,
    "loops_are_on_time": b.late_loop,
    "requests_make_progress": b.unheard,
    "sessions_start": b.unheard,
    "the_core_serves": _status("failed"),
    "words_spread": b.unheard_word,
    "health_is_fresh": b.unknown_health,
    "sessions_get_on": b.frozen_session,
    "back_pressure_ends": b.left_outlet,
    "ended_sessions_are_forgotten": partial(b.frozen_session, phase=Phase.DONE),
}


class Trial:
    """An observer with one invariant, which is broken whenever it looks, but for the first time."""

    def __init__(self, cluster: Cluster, clients: Clients, trace: Trace, invariant: Invariant) -> None:
        self.name = invariant.name
        self._observer = Observer(cluster, clients, trace, [invariant])
        self.healthy: list[Violation] = []

    @property
    def found(self) -> list[Violation]:
        return self._observer.violations

    def look(self) -> None:
        self._observer.finish()  # at everything, whether or not it is due

    def look_at_broken(self) -> None:
        with BREAKAGES[self.name](self._observer._mesh):
            self.look()


@cache
def trials() -> tuple[dict[str, list[Violation]], list[Violation]]:
    """What each invariant said of its broken mesh, and what all of them said of the healthy one."""
    with TemporaryDirectory() as root:
        return run_deterministically(_try, Path(root), seed=SCRIPT.seed)


async def _try(root: Path) -> tuple[dict[str, list[Violation]], list[Violation]]:
    trace = Trace()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(SCRIPT, root, trace, nursery)
        await cluster.start()
        clients = Clients(cluster)
        nursery.start_soon(clients.run)
        healthy = Observer(cluster, clients, trace)
        nursery.start_soon(healthy.run)
        await trio.sleep_until(cluster.started_at_s + BEGINS_S)
        tried = [
            Trial(cluster, clients, trace, invariant) for invariant in ALL if invariant.name in BREAKAGES
        ]
        for trial in tried:
            trial.look()
        assert not [trial.name for trial in tried if trial.found], "a healthy mesh breaks nothing"
        for _ in range(LOOKS):
            for trial in tried:
                if not trial.found:
                    trial.look_at_broken()
            await trio.sleep(LOOK_S)
        healthy.finish()
        nursery.cancel_scope.cancel()
    return {trial.name: trial.found for trial in tried}, healthy.violations


def test_there_is_a_way_to_break_every_invariant() -> None:
    assert sorted(BREAKAGES) == sorted(invariant.name for invariant in ALL)


@pytest.mark.parametrize("invariant", ALL, ids=lambda invariant: invariant.name)
def test_an_invariant_speaks_when_it_is_broken(invariant: Invariant) -> None:
    found = trials()[0][invariant.name]
    assert found, f"nobody noticed {invariant.sentence!r}"
    assert found[0].invariant == invariant.id
    assert found[0].sentence == invariant.sentence
    assert found[0].detail


def test_the_observer_of_the_same_mesh_that_sees_none_of_it_says_nothing() -> None:
    assert trials()[1] == []


def test_sentences_end_as_sentences_and_belong_to_one_check_each() -> None:
    assert all(invariant.sentence.endswith(".") for invariant in ALL)
    assert len({(invariant.id, invariant.sentence) for invariant in ALL}) == len(ALL)
    assert {invariant.when for invariant in ALL} == set(When)
