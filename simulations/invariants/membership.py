"""Who lives: verdicts need several who doubt, incarnations rise, and a healed core sees itself whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Final

from mesh.liveness.detector import State
from mesh.liveness.standing import NEVER, Standing
from protocols import limits
from protocols.ids import PeerId
from protocols.streams import Plane
from simulations.invariants.bounds import TOGETHER_S
from simulations.invariants.invariant import Breach, always, settled
from simulations.invariants.mesh import Mesh

_INCARNATION: Final = attrgetter("incarnation")

LOOK_S = 0.5
JOINED_S = TOGETHER_S + 10.0  # a connection that nobody needs at the moment is not made first


@always(
    "S8",
    f"A member is dead where {limits.SUSPICIONS_NEEDED} others doubt it, or by this node's own doubt of {limits.ALONE_S:.0f} s.",
    every_s=LOOK_S,
)
def verdicts_have_grounds(mesh: Mesh) -> Iterator[Breach]:
    members = len(mesh.cluster.nodes)
    needed = max(1, min(limits.SUSPICIONS_NEEDED, members - 2))
    for sight, peer, standing in mesh.doubted:
        if standing.state is not State.DEAD or standing.incarnation == NEVER or peer not in mesh.peers:
            continue
        own = standing.doubts.get(sight.peer)
        is_alone = own is not None and mesh.now - own.since >= limits.ALONE_S - LOOK_S
        others = {monitor for monitor in standing.doubts if monitor != peer}
        if len(others) < needed and not is_alone and not _lived_with_few(sight.standings, standing.since):
            detail = f"{len(others)} doubt {mesh.name_of(peer)}, and {sight.name} calls it dead"
            yield Breach((sight.name, mesh.name_of(peer)), detail)


@always("S8", "Nobody doubts itself, and no table of doubts outgrows its bound.", every_s=LOOK_S)
def doubts_are_of_others(mesh: Mesh) -> Iterator[Breach]:
    for sight, peer, standing in mesh.doubted:
        if peer in standing.doubts or len(standing.doubts) > limits.SUSPICIONS_MAX:
            yield Breach((sight.name,), f"{len(standing.doubts)} doubts of {mesh.name_of(peer)}")


@always("S8", "Nobody is thought to be in an incarnation that it never spoke of.", every_s=LOOK_S)
def incarnations_were_spoken(mesh: Mesh) -> Iterator[Breach]:
    spoken = {peer: high for history in mesh.histories.values() for peer, high in history.spoken.items()}
    all_spoken = min(spoken.values(), default=NEVER)  # whoever is in no later one needs no look
    for sight in mesh.sights.values():
        if max(map(_INCARNATION, sight.standings.values()), default=NEVER) <= all_spoken:
            continue
        for peer, standing in sight.standings.items():
            if standing.incarnation > spoken.get(peer, standing.incarnation):
                detail = f"{mesh.name_of(peer)} is in {spoken[peer]}, {sight.name} has {standing.incarnation}"
                yield Breach((sight.name, mesh.name_of(peer)), detail, within_s=3 * LOOK_S)


@always(
    "S8", "The incarnation of a node only rises, over restarts that keep its disk as well.", every_s=LOOK_S
)
def incarnations_rise(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        incarnation = sight.detector.incarnation
        run, before = mesh.before(("incarnation", sight.peer), (sight.run, incarnation)) or (0, 0)
        history = mesh.histories[sight.name]
        if run == sight.run and incarnation < before:
            yield Breach((sight.name,), f"from {before} to {incarnation}")
        is_new_run = run not in (0, sight.run) and history.has_kept_everything
        if is_new_run and incarnation <= before:
            yield Breach(
                (sight.name,), f"a new run began with {incarnation}, the one before had reached {before}"
            )


@settled("L1", "All of the healed core are up.")
def the_core_is_up(mesh: Mesh) -> Iterator[Breach]:
    for name in mesh.script.core or mesh.cluster.nodes:
        if mesh.script.core and name not in mesh.sights:
            yield Breach((name,), "it does not come up", within_s=TOGETHER_S)


@settled("L1", f"All of the healed core see each other up within {TOGETHER_S:.0f} s.")
def the_core_sees_itself(mesh: Mesh) -> Iterator[Breach]:
    core = mesh.core
    for sight in core:
        for other in core:
            if other is sight:
                continue
            if not sight.is_up(other.peer) or sight.detector.state(other.peer) is not State.ALIVE:
                state = sight.detector.state(other.peer).name
                detail = f"{other.name} is {state}, {'' if sight.is_up(other.peer) else 'not '}connected"
                yield Breach((sight.name, other.name), detail, within_s=TOGETHER_S)


@settled("L1", f"All of the healed core are joined for bulk as well, within {JOINED_S:.0f} s.")
def the_core_is_joined_for_bulk(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.core:
        for other in mesh.core:
            if other is not sight and not sight.is_linked(other.peer, Plane.DATA):
                detail = f"{sight.name} and {other.name} have no connection for bulk"
                yield Breach((sight.name, other.name), detail, within_s=JOINED_S)


@always("S13", "Gossip counts on neighbours to whom it has a link.", every_s=LOOK_S)
def neighbours_have_links(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for peer in sight.views.active:
            if peer not in sight.linked:
                detail = f"{mesh.name_of(peer)} counts as its neighbour, and there is no link"
                yield Breach((sight.name, mesh.name_of(peer)), detail, within_s=LOOK_S)


@always("S13", "Words are pushed to those to whom there is a link.", every_s=LOOK_S)
def trees_grow_along_links(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for peer in sorted(sight.branches.difference(sight.linked)):
            detail = f"words are pushed to {mesh.name_of(peer)}, to whom there is no link"
            yield Breach((sight.name, mesh.name_of(peer)), detail, within_s=2 * LOOK_S)


@always("S13", "Gossip has links to its neighbours, and to those that are to become some.", every_s=LOOK_S)
def links_are_to_neighbours(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        for peer in sight.linked:
            if peer not in sight.views.active and peer not in sight.views.opening:
                detail = f"{mesh.name_of(peer)} has a link and counts as no neighbour"
                yield Breach((sight.name, mesh.name_of(peer)), detail, within_s=2 * LOOK_S)


@always("S13", "What has come does not count as missing.", every_s=LOOK_S)
def what_has_come_is_not_missed(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        both = len(sight.missing_ids.keys() & sight.recent_ids.keys())
        if both:
            yield Breach((sight.name,), f"{both} bundles have come and count as missing")


@always(
    "S8", "The living watch over each other: whoever has died or left is on nobody's ring.", every_s=LOOK_S
)
def rings_are_of_the_living(mesh: Mesh) -> Iterator[Breach]:
    lost: defaultdict[str, set[PeerId]] = defaultdict(set)
    for sight, peer, standing in mesh.doubted:
        if not standing.is_living:
            lost[sight.name].add(peer)
    for sight in mesh.awake:
        living = sight.standings.keys() - lost[sight.name]
        for peer in sorted(living.symmetric_difference(sight.ring) - {sight.peer}):
            detail = f"{mesh.name_of(peer)} is {sight.detector.state(peer).name}, and {'' if peer in living else 'still '}"
            detail += "no monitor" if peer in living else "a monitor"
            yield Breach((sight.name, mesh.name_of(peer)), detail, within_s=LOOK_S)


@always(
    "S8", "The dead are remembered for as long as what was said of them before may come back.", every_s=LOOK_S
)
def the_dead_are_remembered(mesh: Mesh) -> Iterator[Breach]:
    dead: defaultdict[str, dict[PeerId, float]] = defaultdict(dict)
    for sight, peer, standing in mesh.doubted:
        if standing.state is State.DEAD and standing.incarnation != NEVER:
            dead[sight.name][peer] = standing.since
    for sight in mesh.sights.values():
        for peer, since in (mesh.before(("dead", sight.name, sight.run), dead[sight.name]) or {}).items():
            if peer not in sight.standings and mesh.now - since < limits.TOMBSTONE_S - LOOK_S:
                detail = f"{mesh.name_of(peer)} was dead for {mesh.now - since:.1f} s, and is forgotten"
                yield Breach((sight.name, mesh.name_of(peer)), detail)


@settled("L1", f"Nobody of the healed core takes for living what has been down for {TOGETHER_S:.0f} s.")
def the_dead_are_known(mesh: Mesh) -> Iterator[Breach]:
    down = [peer for peer, name in mesh.peers.items() if name not in mesh.sights]
    for sight in mesh.core:
        for peer in down:
            if sight.detector.state(peer) <= State.SUSPECT:
                detail = f"{mesh.name_of(peer)} is down, and {sight.detector.state(peer).name} there"
                yield Breach((sight.name, mesh.name_of(peer)), detail, key=peer, within_s=TOGETHER_S)


def _lived_with_few(standings: Mapping[PeerId, Standing], at_s: float) -> bool:
    """With fewer others alive, fewer have to agree. Who has come since does not count."""
    living = sum(standing.is_living and standing.since <= at_s for standing in standings.values())
    return living < limits.SUSPICIONS_NEEDED
