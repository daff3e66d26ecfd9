"""`World`: the product's own detectors and gossip machines by the thousand, on integer milliseconds and without trio.

    world = World.of(100, seed=7)
    world.run(10.0)
    world.kill(world.nodes[3], silent=True)
    world.run(20.0)
    world.observer.violations

Everybody knows everybody and is connected when it begins, as in a mesh that has been up for a while; gossip links, trees and
the words on them come about as they do in the product. Signatures are keyed hashes, checked by the same rules. Whatever
decides is the product's class; `watching`, `gossiping` and `connecting` feed the machines and carry out what they ask for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

from mesh.gossip.events import Candidates as Neighbours
from mesh.liveness import suspicion_events as e
from mesh.liveness.detector import DetectorEvent
from protocols.gossip import Heard, Topic
from protocols.ids import PeerId
from protocols.liveness import Alive
from simulations.chance import chance
from simulations.network.internet import peer_id
from simulations.scenarios.script import LinkSpec, NodeSpec
from simulations.world.agenda import Agenda
from simulations.world.connecting import FIRST, Connecting
from simulations.world.gossiping import Gossiping
from simulations.world.node import WorldNode
from simulations.world.observing import WorldObserver
from simulations.world.watching import Watching
from simulations.world.ways import Ways

STARTED_MS = 1000  # all nodes begin within this
LEAVE_MS = 300
HOME = LinkSpec(latency_ms=4.0, jitter_ms=26.0, loss=0.01)
SPEAKERS_MAX = 300
"""More nodes than this, and a sample of `SPEAKERS_OF_MANY` speaks: the first word of every author floods all links."""
SPEAKERS_OF_MANY = 50
_EVENT = struct.Struct("<IHHB")


class World:
    """`trace` is given bytes for everything that is delivered; `speakers` of the nodes gossip their health and record."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        links: Sequence[LinkSpec],
        seed: int,
        speakers: int | None = None,
        trace: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self.agenda = Agenda()
        self.seed = seed
        self.trace = trace
        self.random = chance(seed, "world")
        self.ways = Ways(self.agenda, chance(seed, "links"), specs, links)
        self.observer = WorldObserver(self)
        self.connecting = Connecting(self)
        self.gossiping = Gossiping(self)
        self.watching = Watching(self)
        spoken = self._drawn_speakers(len(specs), speakers)
        self.speakers = len(spoken)
        self.nodes = [
            WorldNode(number, peer_id(number), spec, seed, self.agenda, is_speaker=number in spoken)
            for number, spec in enumerate(specs)
        ]
        self.number_of: dict[PeerId, int] = {node.peer: node.number for node in self.nodes}
        self._everybody = frozenset(self.number_of)
        self._codes: dict[str, int] = {}
        self._begin()

    @classmethod
    def of(cls, count: int, seed: int, link: LinkSpec = HOME, speakers: int | None = None) -> World:
        """Nodes that are all alike, and links as well."""
        return cls([NodeSpec(f"n{number}") for number in range(count)], [link], seed, speakers)

    def _drawn_speakers(self, count: int, speakers: int | None) -> frozenset[int]:
        if speakers is None:
            speakers = count if count <= SPEAKERS_MAX else SPEAKERS_OF_MANY
        return frozenset(chance(self.seed, "speakers").sample(range(count), min(speakers, count)))

    # Time ------------------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self.agenda.now_s

    def run(self, until_s: float) -> None:
        self.agenda.run(round(until_s * 1000))

    def at(self, when_s: float, what: Callable[..., None], *args: Any) -> None:
        self.agenda.at(round(when_s * 1000), what, *args)

    def arm(self, node: WorldNode, name: str, deadline_s: float, ring: Callable[[WorldNode], None]) -> None:
        """As the drivers do: an alarm that is set already and comes sooner is left, and does no harm."""
        if deadline_s == math.inf:
            return
        # A machine that wants to be called again at once is, a millisecond later.
        at_ms = self.agenda.now_ms + 1
        if deadline_s > self.now_s:
            at_ms = max(at_ms, math.ceil(deadline_s * 1000 - 1e-6))
        armed_ms = node.alarms_ms.get(name)
        if armed_ms is None or at_ms < armed_ms:
            node.alarms_ms[name] = at_ms
            self.agenda.at(at_ms, self._alarm, node, node.run, name, at_ms, ring)

    def _alarm(
        self, node: WorldNode, run: int, name: str, at_ms: int, ring: Callable[[WorldNode], None]
    ) -> None:
        if node.run != run or not node.is_running or node.alarms_ms.get(name) != at_ms:
            return
        if node.is_paused:
            node.backlog.append((self._alarm, (node, run, name, at_ms, ring)))
            return
        del node.alarms_ms[name]
        ring(node)

    # What happens in it ----------------------------------------------------------------------------------------------

    def delivered(self, source: int, target: int, what: Any) -> None:
        code = self._codes.setdefault(what.__name__, len(self._codes))
        self.trace(_EVENT.pack(self.agenda.now_ms, source, target, code))

    def heard(self, node: WorldNode, heard: Heard) -> None:
        """News of the gossip machine. Readers have it behind what is being done, as behind a feed."""
        self.observer.heard(node, heard)
        if heard.topic is Topic.LIVENESS:
            self.agenda.at(self.agenda.now_ms, self._read, node, node.run, heard)

    def _read(self, node: WorldNode, run: int, heard: Heard) -> None:
        if node.run == run and node.is_running:
            self.watching.heard(node, heard)

    def changed(self, node: WorldNode, event: DetectorEvent) -> None:
        self.observer.changed(node, event)

    # The beginning ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Who is quiet has said that it lives before this begins, and to everybody."""
        lives = [
            e.Heard(node.peer, Alive(node.suspicion.incarnation, node.suspicion.boot)) for node in self.nodes
        ]
        links = [e.Connected(node.peer) for node in self.nodes]
        for node in self.nodes:
            node.suspicion.handle(e.Candidates(self._everybody), 0.0)
            for other in self.nodes:
                if other is not node:
                    node.suspicion.handle(lives[other.number], 0.0)
                    node.suspicion.handle(links[other.number], 0.0)
            others = range(len(self.nodes))
            node.connections = dict.fromkeys((each for each in others if each != node.number), FIRST)
            node.told_candidates = self._everybody - {node.peer}
            self.agenda.at(self.random.randrange(STARTED_MS), self._start, node)

    def _start(self, node: WorldNode) -> None:
        self.gossiping.handle(node, Neighbours(tuple(sorted(node.told_candidates))))
        if node.is_speaker:
            self.watching.start(node)
            self.gossiping.begin_to_speak(node)
        else:
            said = node.suspicion.start(self.now_s)
            self.watching.perform(node, [each for each in said if not isinstance(each, e.Publish)])

    # What befalls nodes ----------------------------------------------------------------------------------------------

    def kill(self, node: WorldNode, *, silent: bool = False) -> None:
        """The process ends; `silent`: its machine with it. Idempotent."""
        if not node.is_running:
            return
        self.observer.went_down(node, silent=silent)
        node.is_running, node.is_powered, node.is_paused = False, not silent, False
        node.backlog.clear()
        if not silent:
            self.connecting.close_all(node)
        node.connections = {}

    def restart(self, node: WorldNode) -> None:
        """With its disk as it was, so its incarnation goes on; it dials everybody, as a daemon that starts does."""
        if node.is_running:
            return
        node.is_running = node.is_powered = True
        node.make_machines()
        self.observer.came_up(node)
        node.suspicion.handle(e.Candidates(self._everybody), self.now_s)
        for other in self.nodes:
            if other is not node:
                node.dialling.want(other.peer, self.now_s, within_s=0.0)
        self.watching.start(node)
        self.connecting.arm(node)
        self.watching.tell_candidates(node)
        if node.is_speaker:
            self.gossiping.begin_to_speak(node)

    def leave(self, node: WorldNode) -> None:
        if node.is_awake:
            self.observer.leaves(node)
            self.watching.handle(node, e.Leave())
            self.gossiping.handle(node, Neighbours(()))
            self.agenda.at(self.agenda.now_ms + LEAVE_MS, self._left, node, node.run)

    def _left(self, node: WorldNode, run: int) -> None:
        if node.run == run:
            self.kill(node)

    def pause(self, node: WorldNode) -> None:
        """Nothing of the process runs until `resume`, and then everything is due at once, oldest first."""
        if node.is_running and not node.is_paused:
            node.is_paused = True
            self.observer.paused(node)

    def resume(self, node: WorldNode) -> None:
        if not node.is_paused:
            return
        node.is_paused = False
        self.observer.resumed(node)
        backlog, node.backlog = node.backlog, []
        for place, (what, args) in enumerate(backlog):
            if node.is_paused or not node.is_running:
                node.backlog = [*backlog[place:], *node.backlog] if node.is_running else []
                return
            what(*args)
