"""The whole mesh at one moment, as the observer sees it, with what invariants have to remember from look to look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from inference.sessions.relay import StageKey
from inference.sessions.session import Session
from inference.sessions.stage import Stage
from mesh.liveness.detector import State
from mesh.liveness.standing import Standing
from node import api
from protocols import limits
from protocols.ids import PeerId, SessionId
from simulations.cluster.clients import Client, Clients
from simulations.cluster.cluster import Cluster
from simulations.invariants.history import History
from simulations.invariants.sight import Sight
from simulations.trace import Trace

ValueT = TypeVar("ValueT")

NEAR_S: Final = 0.1
SOON_S: Final = 5 * NEAR_S  # what is in front of a word has arrived by then
NEAR_BYTES_S: Final = 1_000_000.0
NEAR_LOSS: Final = 0.02


@dataclass(slots=True)
class Reading:
    """A client as far as it has been read. `fresh` came since the last look, `fresh_tokens` among it; `tokens` counts those
    before."""

    client: Client
    fresh: list[tuple[float, api.GenerateEvent]] = field(default_factory=list)
    fresh_tokens: list[api.Token] = field(default_factory=list)
    tokens: int = 0
    events: int = 0
    session: SessionId | None = None
    next_position: int | None = None  # None before the first token is due
    moved_s: float = 0.0  # when it last heard anything
    endings: int = 0

    def read(self) -> bool:
        """Whether the client has heard anything since the last look, or has had an end."""
        if self.events == len(self.client.events) and not self.fresh and self.endings == self.client.endings:
            return False
        self.endings = self.client.endings
        self.tokens += len(self.fresh_tokens)
        self.fresh = self.client.events[self.events :]
        self.fresh_tokens = [event for _, event in self.fresh if isinstance(event, api.Token)]
        self.events += len(self.fresh)
        if self.fresh:
            self.moved_s = self.fresh[-1][0]
        if self.session is None:
            started = (event for _, event in self.fresh if isinstance(event, api.Started))
            self.session = next((event.session for event in started), None)
        return True


class Mesh:
    """What is true now. `refresh` looks again."""

    def __init__(self, cluster: Cluster, clients: Clients, trace: Trace) -> None:
        self.cluster: Final = cluster
        self.clients: Final = clients
        self.trace: Final = trace
        self.script: Final = cluster.script
        self.now = 0.0
        self.sights: dict[str, Sight] = {}  # of all processes that are up
        self.awake: list[Sight] = []  # those that are not paused
        self.core: list[Sight] = []  # of those, the ones that were healed; all if the script names nobody
        self.by_peer: dict[PeerId, Sight] = {}
        self.readings: list[Reading] = []
        self.news: list[Reading] = []  # of those, the ones with something new to look at
        self.histories: Final[dict[str, History]] = {}
        self.peers: Final[dict[PeerId, str]] = {}  # every identity that a machine ever had
        self.entered: dict[SessionId, tuple[Sight, Session]] = {}
        self.stages: list[tuple[Sight, StageKey, Stage]] = []
        self._stages_of: defaultdict[SessionId, list[tuple[Sight, int, Stage]]] = defaultdict(list)
        self._memory: dict[Hashable, object] = {}
        self._doubted: list[tuple[Sight, PeerId, Standing]] | None = None

    def refresh(self) -> None:
        self.now = trio.current_time()
        self._doubted = None
        self._find_processes()
        self.news = [reading for reading in self.readings if reading.read()]
        if len(self.clients.all) > len(self.readings):
            self._meet_clients()
        self.entered = {
            id_: (sight, session) for sight in self.sights.values() for id_, session in sight.entered.items()
        }
        self.stages = [
            (sight, key, machine) for sight in self.sights.values() for key, machine in sight.stages()
        ]
        self._stages_of.clear()
        for sight, (id_, index), machine in self.stages:
            self._stages_of[id_].append((sight, index, machine))

    def _meet_clients(self) -> None:
        met = {reading.client.index for reading in self.readings}
        for client in self.clients.all:
            if client.index not in met:
                reading = Reading(client, moved_s=client.began_s)
                reading.read()
                self.readings.append(reading)
                self.news.append(reading)

    def _find_processes(self) -> None:
        sights: dict[str, Sight] = {}
        for name, node in self.cluster.nodes.items():
            history = self.histories.get(name)
            if history is None:
                history = self.histories[name] = History(node)
            daemon, sight = node.daemon, self.sights.get(name)
            if daemon is None:
                sight = None
            elif sight is None or sight.daemon is not daemon:
                sight = Sight(node, daemon)
                self.peers[sight.peer] = name
            if sight is not None:
                sight.disk_was_full |= node.disk.is_full
                sights[name] = sight
            history.look(sight, self.now)
        if sights != self.sights:
            self.sights = sights
            self.by_peer = {sight.peer: sight for sight in sights.values()}
        self.awake = [sight for name, sight in sights.items() if not self.histories[name].is_paused]
        core = self.script.core
        self.core = [sight for sight in self.awake if sight.name in core] if core else self.awake

    # What invariants ask ---------------------------------------------------------------------------------------------

    @property
    def doubted(self) -> list[tuple[Sight, PeerId, Standing]]:
        """Whom somebody holds for anything but plainly alive: doubted, suspected, dead or gone. Found once a look, because in a
        large mesh there are very many others."""
        if self._doubted is None:
            self._doubted = [
                (sight, peer, standing)
                for sight in self.sights.values()
                for peer, standing in sight.standings.items()
                if standing.state is not State.ALIVE or standing.doubts
            ]
        return self._doubted

    @property
    def settled_at_s(self) -> float | None:
        """On trio's clock."""
        settled_s = self.script.settled_at_s
        return None if settled_s is None else self.cluster.started_at_s + settled_s

    def name_of(self, peer: PeerId) -> str:
        return self.peers.get(peer, peer[-8:])

    def are_linked(self, one: PeerId, two: PeerId) -> bool:
        """Whether bytes get through both ways."""
        links = self.cluster.internet.links
        return links.is_open(one, two) and links.is_open(two, one)

    def are_near(self, one: PeerId, two: PeerId) -> bool:
        """Whether a word gets from either to the other within a look or two, but for a loss now and then."""
        links = self.cluster.internet.links
        return self.are_linked(one, two) and all(
            way.latency_s + way.jitter_s <= NEAR_S
            and way.bandwidth_bytes_s >= NEAR_BYTES_S
            and way.loss <= NEAR_LOSS
            and links.due_s(*ends) <= self.now + SOON_S
            for ends in ((one, two), (two, one))
            for way in (links.between(*ends),)
        )

    def stages_of(self, session: SessionId) -> Sequence[tuple[Sight, int, Stage]]:
        return self._stages_of.get(session, ())

    # Memory ----------------------------------------------------------------------------------------------------------

    def before(self, key: Hashable, value: ValueT) -> ValueT | None:
        """What was given under that key at the last look, None at the first."""
        known = self._memory.get(key)
        self._memory[key] = value
        return known if known is None or isinstance(known, type(value)) else None

    def is_news(self, key: Hashable, *values: object) -> bool:
        """Whether any of the values is another than at the last look."""
        known = self._memory.get(("news", key))
        self._memory["news", key] = values
        return known != values

    def is_first_look(self, sight: Sight) -> bool:
        """Whether this process was not there at the last look."""
        return self.histories[sight.name].run_began_s == self.now

    def first(self, key: Hashable, value: ValueT) -> ValueT:
        """What was first given under that key."""
        known = self._memory.setdefault(key, value)
        return known if isinstance(known, type(value)) else value


def hears(author: Sight, reader: Sight, ttl_s: float) -> bool:
    """Whether words that live `ttl_s` get through: clocks that differ by more make them old before they come, or too new; nobody
    promises more."""
    ahead_s = author.node.clock.wall() - reader.node.clock.wall()
    return -ttl_s / 2 < ahead_s < limits.GOSSIP_AHEAD_S
