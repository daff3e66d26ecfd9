"""How to break each invariant of a running mesh for the length of one look, so that the mesh itself never notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from typing import Any

import msgspec
import trio

from inference.engine.worker.books import HeldCache
from inference.sessions.relay import Outlet
from mesh.liveness import incarnation
from mesh.liveness.detector import State
from mesh.liveness.incarnation import Reserved
from mesh.liveness.standing import Doubt
from mesh.picture.evidence import Happening, Record
from node import api
from protocols import limits, streams
from protocols.ids import PeerId, SessionId
from protocols.observations import NO_EVIDENCE, Evidence, Outcome, Tally
from protocols.placement import Claims, LayerRange
from protocols.streams import Plane
from simulations.cluster.process import Panic
from simulations.invariants.mesh import Mesh
from simulations.invariants.sight import Sight

Breakage = Callable[[Mesh], AbstractContextManager[None]]

STRANGER = PeerId("12D3KooWStranger")
NOBODYS = SessionId("f" * 32)


@contextmanager
def having(thing: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute is another."""
    before = getattr(thing, name)
    object.__setattr__(thing, name, value)
    try:
        yield
    finally:
        object.__setattr__(thing, name, before)


@contextmanager
def holding(table: MutableMapping[Any, Any], key: Any, value: Any) -> Iterator[None]:
    """A table has another entry, in its old order."""
    before = dict(table)
    table[key] = value
    try:
        yield
    finally:
        table.clear()
        table.update(before)


@contextmanager
def lacking(table: MutableMapping[Any, Any], *keys: Any) -> Iterator[None]:
    before = dict(table)
    for key in keys or tuple(table):
        table.pop(key, None)
    try:
        yield
    finally:
        table.clear()
        table.update(before)


def sight(mesh: Mesh, name: str = "n1") -> Sight:
    return mesh.sights[name]


def session(mesh: Mesh) -> Any:
    return next(iter(mesh.entered.values()))[1]


def stage(mesh: Mesh, index: int = 1) -> Any:
    id_ = next(iter(mesh.entered))
    return next(machine for _, key, machine in mesh.stages if key == (id_, index))


def standing(mesh: Mesh) -> Any:
    return sight(mesh).standings[sight(mesh, "n2").peer]


@contextmanager
def told(
    mesh: Mesh, make: Callable[[api.Token], api.GenerateEvent], *, running: bool = True
) -> Iterator[None]:
    """A client heard one thing more."""
    client = next(
        each.client
        for each in mesh.readings
        if (each.client.status is None) is running and each.client.tokens
    )
    last = client.tokens[-1][1]
    client.events.append((mesh.now, make(last)))
    yield
    client.events.pop()


def rerouted(last: api.Token) -> api.GenerateEvent:
    return api.Rerouted(0, "0-1", STRANGER, "one", STRANGER, "another", 1.0, 0, last.position, False, "")


def unheard(mesh: Mesh) -> AbstractContextManager[None]:
    """A client that hears nothing any more, and has had no token."""
    reading = mesh.readings[-1]
    reading.tokens, reading.fresh = 0, []
    return having(reading.client, "events", [])


def frozen_session(mesh: Mesh, **parts: Any) -> AbstractContextManager[None]:
    """A session that does nothing, beside the others."""
    frozen = copy(session(mesh))
    frozen.tokens = [1, 2, 3]
    for name, value in parts.items():
        setattr(frozen, name, value)
    return holding(sight(mesh).daemon.entry.running, NOBODYS, frozen)


def left_outlet(mesh: Mesh) -> AbstractContextManager[None]:
    """Of a session that nobody has, without credits."""
    seen = sight(mesh)
    outlet = Outlet(seen.daemon.relay, sight(mesh, "n2").peer, NOBODYS, 0, 0, credits=0)
    return holding(seen.daemon.relay._outlets, (outlet.peer, NOBODYS, 0, 0), outlet)


def old_feeder(mesh: Mesh) -> AbstractContextManager[None]:
    """An outlet of a session that has gone on without it."""
    id_, (seen, held) = next(iter(mesh.entered.items()))
    outlet = Outlet(seen.daemon.relay, held.places[0].peer, id_, 0, 99)
    return holding(seen.daemon.relay._outlets, (outlet.peer, id_, 0, 99), outlet)


def shrunk_log(mesh: Mesh) -> AbstractContextManager[None]:
    return having(session(mesh), "tokens", session(mesh).tokens[:-2])


def two_owners(mesh: Mesh) -> AbstractContextManager[None]:
    by_index = {key[1]: (seen, key) for seen, key, _ in mesh.stages}
    seen, key = by_index[0]
    other = next(each for each in mesh.sights.values() if each is not seen)
    return holding(other._deliverers, key, seen._deliverers[key])  # type: ignore[arg-type]


def left_behind(mesh: Mesh) -> AbstractContextManager[None]:
    """The entry has gone on without a stage, elsewhere, and the stage goes on as well."""
    held = session(mesh)
    place = held.places[1]
    mesh.first(("given up", held.order.session, 1, mesh.name_of(place.peer), stage(mesh).epoch), 1)
    moved = [*held.places]
    moved[1] = type(place)(STRANGER, place.range, 0.0, 0.0)

    @contextmanager
    def both() -> Iterator[None]:
        with having(held, "places", moved), having(held, "epoch", held.epoch + 1):
            yield

    return both()


def gap_in_route(mesh: Mesh) -> AbstractContextManager[None]:
    return having(session(mesh), "places", session(mesh).places[1:])


def swapped_places(mesh: Mesh) -> AbstractContextManager[None]:
    places = session(mesh).places
    return having(places[0], "peer", STRANGER)


@contextmanager
def unknown_while_loading(mesh: Mesh) -> Iterator[None]:
    """A stage of the session is said to wait for a range that its holder loads for nobody that it knows."""
    id_, (_, running) = next(iter(mesh.entered.items()))
    place = running.places[0]
    holder = mesh.by_peer[place.peer]
    grant = next(each for each in holder.grants if each.offer.range == place.range)
    stops = holder.daemon.placement._holder._stops
    with (
        having(place, "opened", False),
        having(place, "busy", True),
        lacking(holder.opened, (id_, 0)),  # type: ignore[arg-type]
        holding(stops, grant, trio.CancelScope()),
    ):
        yield


@contextmanager
def short_replay(mesh: Mesh) -> Iterator[None]:
    running = session(mesh)
    with having(running, "_resume_at", running.places[0].base + 9), having(running, "_replayed_rows", 8):
        yield


@contextmanager
def resumed_earlier(mesh: Mesh) -> Iterator[None]:
    """A stage has rows of an epoch that nothing was computed in yet, and that resumed without them."""
    running, machine = session(mesh), stage(mesh)
    with (
        having(running, "epoch", running.epoch + 1),
        having(machine, "epoch", machine.epoch + 1),
        having(running, "_resume_at", machine.rows - 1),
    ):
        yield


@contextmanager
def forgotten_dead(mesh: Mesh) -> Iterator[None]:
    """Somebody was dead at the last look, and nothing is known of it any more."""
    seen = sight(mesh)
    mesh.before(("dead", seen.name, seen.run), {STRANGER: mesh.now - 1.0})
    yield


def falling_rank(mesh: Mesh) -> AbstractContextManager[None]:
    ranks = sight(mesh).ranks
    return holding(ranks, next(iter(ranks)), (0, PeerId("")))  # type: ignore[arg-type]


def second_primary(mesh: Mesh) -> AbstractContextManager[None]:
    first, second = (
        next(grant for grant in seen.grants if grant.is_claimed and not grant.offer.standby)
        for seen in list(mesh.sights.values())[:2]
    )
    return having(second, "offer", first.offer)


def released_claim(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).daemon.placement._holder.grants, "_grants", [])


def uncovered(mesh: Mesh) -> AbstractContextManager[None]:
    holder = next(
        seen for seen in mesh.sights.values() if any(not each.claim.standby for each in seen.holdings)
    )
    return lacking(holder.daemon.placement._holder.holdings)


def unknown_claims(mesh: Mesh) -> AbstractContextManager[None]:
    return lacking(sight(mesh).daemon.placement.claims._told, sight(mesh, "n2").peer)


def wild_branch(mesh: Mesh) -> AbstractContextManager[None]:
    """The words of one author go to somebody who is no neighbour."""
    branches = sight(mesh).daemon.members.gossip._machine._tree._branches
    return holding(branches, sight(mesh, "n2").peer, {STRANGER: None})


def link_to_nobody(mesh: Mesh) -> AbstractContextManager[None]:
    links: Any = sight(mesh).linked
    return holding(links, STRANGER, None)


def missed_though_here(mesh: Mesh) -> AbstractContextManager[None]:
    missing: Any = sight(mesh).missing_ids
    return holding(missing, next(iter(sight(mesh).recent_ids)), None)


def lock_left(mesh: Mesh) -> AbstractContextManager[None]:
    return holding(sight(mesh).daemon.relay._opening, (STRANGER, streams.DECODE), trio.Lock())


def promised_twice(mesh: Mesh) -> AbstractContextManager[None]:
    grant = sight(mesh).grants[0]
    return having(grant, "promised_bytes", 2 * grant.bytes_needed + 1)


def untold_ranges(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).daemon.placement._board, "_said", {})


def _believing(mesh: Mesh, **other: Any) -> AbstractContextManager[None]:
    """A claim like one of n2, but for that."""
    claim = msgspec.structs.replace(sight(mesh, "n2").holdings[0].claim, **other)
    told: Any = sight(mesh).daemon.placement.claims._told
    return holding(told, claim.holder, Claims((claim,)))


def claim_of_an_earlier_run(mesh: Mesh) -> AbstractContextManager[None]:
    return _believing(mesh, range=LayerRange(90, 91))


def claim_of_nobody(mesh: Mesh) -> AbstractContextManager[None]:
    return _believing(mesh, holder=STRANGER)


def another_range(mesh: Mesh) -> AbstractContextManager[None]:
    grants = sight(mesh).daemon.placement._holder.grants
    turn = int(mesh.now * 10) % 2
    return having(grants, "_grants", grants._grants[turn:])


def cache_kept(mesh: Mesh) -> AbstractContextManager[None]:
    worker: Any = sight(mesh).node.worker
    shard = sight(mesh).holdings[0].shard
    return holding(worker._process.books._caches, (shard, NOBODYS, 0), HeldCache(64, 1))


def taken_from_a_stranger(mesh: Mesh) -> AbstractContextManager[None]:
    """Rows of somebody else's session lie in a cache of one that is under way."""
    shards: Any = sight(mesh).node.worker._process._server._shards
    caches = next(engine._caches for engine in shards.values() if engine._caches)
    return having(next(iter(caches.values())), "makers", frozenset({STRANGER}))


def prompts_kept(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).node.worker._process.books, "prefix_bytes", 1 << 40)


def stage_kept(mesh: Mesh, entry: str | None = "n2") -> AbstractContextManager[None]:
    seen = sight(mesh)
    opened = next(iter(next(each for each in mesh.sights.values() if each.opened).opened.values()))
    peer = STRANGER if entry is None else sight(mesh, entry).peer

    @contextmanager
    def both() -> Iterator[None]:
        with (
            holding(seen.daemon.server._entries, (NOBODYS, 0), (peer, None)),
            holding(seen.daemon.server.sessions, (NOBODYS, 0), opened),
        ):
            yield

    return both()


def task_left(mesh: Mesh) -> AbstractContextManager[None]:
    """All sessions are over, and the tasks of one are there still."""

    @contextmanager
    def over() -> Iterator[None]:
        stack = [lacking(each.daemon.entry.running) for each in mesh.sights.values()]
        stack += [lacking(each.daemon.server.sessions) for each in mesh.sights.values()]
        for each in stack:
            each.__enter__()
        try:
            yield
        finally:
            for each in stack:
                each.__exit__(None, None, None)

    return over()


def recorded(mesh: Mesh, **parts: Any) -> AbstractContextManager[None]:
    """A record of a peer that did this."""
    record = Record(mesh.now, **parts)
    return holding(sight(mesh).records, sight(mesh, "n2").peer, record)  # type: ignore[arg-type]


def overpraised(mesh: Mesh) -> AbstractContextManager[None]:
    return recorded(mesh, facets=(Evidence(good=0.4), *(NO_EVIDENCE,) * 3), tally=Tally(served=1.0))


def noted_twice(mesh: Mesh) -> AbstractContextManager[None]:
    happening = Happening(1.0, Outcome.SERVED, "session 1")
    record = Record(mesh.now)
    record.happenings.extend((happening, happening))
    return holding(sight(mesh).records, sight(mesh, "n2").peer, record)  # type: ignore[arg-type]


def thought_wrong(mesh: Mesh) -> AbstractContextManager[None]:
    record = Record(mesh.now, tally=Tally(wrong=1.0))
    record.happenings.append(Happening(1.0, Outcome.WRONG, "it sampled nonsense"))
    return holding(sight(mesh).records, sight(mesh, "n2").peer, record)  # type: ignore[arg-type]


@contextmanager
def dead_without_grounds(mesh: Mesh) -> Iterator[None]:
    """Somebody has just become dead, and nobody doubted it."""
    with having(standing(mesh), "state", State.DEAD), having(standing(mesh), "since", mesh.now):
        yield


def self_doubt(mesh: Mesh) -> AbstractContextManager[None]:
    return holding(standing(mesh).doubts, sight(mesh, "n2").peer, Doubt(1, refused=False, since=0.0))


def unspoken(mesh: Mesh) -> AbstractContextManager[None]:
    return having(standing(mesh), "incarnation", 10**6)


def grown_young(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).detector, "incarnation", 0)


def beyond_reserve(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).detector, "incarnation", 10**7)


def suspected(mesh: Mesh) -> AbstractContextManager[None]:
    return having(standing(mesh), "state", State.SUSPECT)


def half_joined(mesh: Mesh) -> AbstractContextManager[None]:
    linked: Any = sight(mesh).daemon.members._machine._linked
    return holding(linked, Plane.DATA, linked[Plane.DATA] - {sight(mesh, "n2").peer})


def missing_node(mesh: Mesh) -> AbstractContextManager[None]:
    process: Any = mesh.cluster.nodes["n3"].process
    return having(process, "body", None)


def uncertified(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).daemon.members._papers, "_chain", ())


def wrong_key(mesh: Mesh) -> AbstractContextManager[None]:
    book: Any = sight(mesh).book
    entry = book._entries[sight(mesh, "n2").peer]
    contact = msgspec.structs.replace(entry.contact, static=b"\1" * 32)
    return holding(book._entries, entry.contact.peer, msgspec.structs.replace(entry, contact=contact))


def stranger_in_book(mesh: Mesh) -> AbstractContextManager[None]:
    book: Any = sight(mesh).book
    entry = book._entries[sight(mesh, "n2").peer]
    contact = msgspec.structs.replace(entry.contact, peer=STRANGER)
    return holding(book._entries, STRANGER, msgspec.structs.replace(entry, contact=contact))


def twin(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh), "peer", sight(mesh, "n2").peer)


class _Revocations:
    issuer, number = STRANGER, 3


def untold_revocation(mesh: Mesh) -> AbstractContextManager[None]:
    return holding(sight(mesh).revocations._lists, STRANGER, _Revocations())  # type: ignore[arg-type]


def unheard_word(mesh: Mesh) -> AbstractContextManager[None]:
    return lacking(sight(mesh).table.authors, sight(mesh, "n2").peer)


def unknown_health(mesh: Mesh) -> AbstractContextManager[None]:
    return lacking(sight(mesh).daemon.picture._health, sight(mesh, "n2").peer)


def file_gone(mesh: Mesh, name: str) -> AbstractContextManager[None]:
    return lacking(sight(mesh).node.disk.files, name)


@contextmanager
def forgetful_run(mesh: Mesh) -> Iterator[None]:
    """A new process that begins where the last one began as well."""
    files = {incarnation.FILE: msgspec.json.encode(Reserved(10**6))}
    with having(mesh.histories["n1"], "_run", -1), having(sight(mesh).node, "found", files):
        yield


def bug_in_handler(mesh: Mesh) -> AbstractContextManager[None]:
    network: Any = sight(mesh).node.network
    return holding(network._guard.faults, "KeyError", 1)


def panic(mesh: Mesh) -> AbstractContextManager[None]:
    panics = [Panic(mesh.now, "n1", "KeyError in somewhere.py:1", "")]
    return having(mesh.cluster, "panics", panics)


def late_loop(mesh: Mesh) -> AbstractContextManager[None]:
    return having(sight(mesh).daemon._lag, "_late", [(mesh.now - 1, 0.9)])


def overfull(mesh: Mesh) -> AbstractContextManager[None]:
    peers = {PeerId(str(number)): None for number in range(limits.GOSSIP_ACTIVE_MAX + 1)}
    return having(sight(mesh).views, "active", peers)


def crowded(mesh: Mesh) -> AbstractContextManager[None]:
    network: Any = sight(mesh).node.network
    return having(network, "_connections", [sight(mesh).connections[0]] * (2 * limits.MEMBERS_MAX + 1))


def many_streams(mesh: Mesh) -> AbstractContextManager[None]:
    streams = dict.fromkeys(range(2 * limits.STREAMS_PER_CONNECTION_MAX + 1))
    return having(sight(mesh).connections[0], "_streams", streams)
