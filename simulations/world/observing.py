"""The observer of a world: sees everything, tells the nodes nothing, and notes what must not be.

Times of disturbance are kept per node: a node that was down, stopped for a second or behind a cut within `EXCUSED_MS` is no
evidence against anybody, and neither is what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from mesh.liveness.detector import DetectorEvent, MemberDead, State
from protocols import limits
from protocols.gossip import Heard, Topic
from protocols.ids import PeerId
from protocols.liveness import LivenessItem, Suspect
from simulations.running.outcome import Detection, Violation
from simulations.world import sentences as say
from simulations.world.node import EPOCH_MS, WorldNode
from simulations.world.plans import plan_of

if TYPE_CHECKING:
    from simulations.world.world import World

EXCUSED_MS: Final = 10_000
STOPPED_MS: Final = 1_000
KNOWN_MS: Final = 6_000
"""4.4 s to a verdict on a node that is silent while its monitors are late themselves (`protocols.limits`), the time of the
loss of a message twice over, and the way through the mesh."""
KNOWN_REFUSED_MS: Final = 3_500
HEALED_MS: Final = 20_000
SPREAD_MS: Final = 2_000
APART_MS: Final = 2_000
CHECK_MS: Final = 500
DELIVERED_SHARE: Final = 0.999
VIOLATIONS_MAX: Final = 200
PLANNERS: Final = 5
SKEW_MS: Final = round(limits.HEALTH_TTL_S * 1000) // 2
NEIGHBOURS_MAX: Final = limits.GOSSIP_ACTIVE_MAX + limits.GOSSIP_ACTIVE + 1
"""A node that asks for as many as it wants may have accepted as many as it may meanwhile."""


@dataclass(slots=True)
class _Down:
    node: WorldNode
    at_ms: int
    is_silent: bool
    has_left: bool
    until_ms: int | None = None
    due: list[WorldNode] | None = None  # who had to know, when it was time
    knew_ms: dict[int, int] = field(default_factory=dict)  # since when, of every node that did


@dataclass(slots=True)
class _Word:
    said_ms: int
    nodes: frozenset[int]
    has: set[int] = field(default_factory=set)


class WorldObserver:
    """`violations` and `detections` are complete after `finish`; `in_time` and `said` count deliveries in steady times."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._agenda = world.agenda
        self.violations: list[Violation] = []
        self.detections: list[Detection] = []
        self.said = self.in_time = 0
        self.false_deaths = 0
        self._downs: list[_Down] = []
        self._disturbed_ms: dict[int, int] = {}  # until when a node is no evidence
        self._troubles: dict[int, int] = {}
        self._paused_ms: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._words: dict[tuple[PeerId, int], _Word] = {}
        self._spoken: dict[int, set[int]] = {}
        self._highest: dict[int, int] = {}  # incarnation of a node in any run of it
        self._held: dict[tuple[int, int], tuple[int, State]] = {}
        self._apart_since_ms: int | None = None
        self._calm_since_ms = 0
        self._agenda.at(CHECK_MS, self._check)

    # What befalls nodes ----------------------------------------------------------------------------------------------

    def went_down(self, node: WorldNode, *, silent: bool) -> None:
        self._disturb(node)
        self._highest_of(node)
        down = _Down(node, self._agenda.now_ms, silent, node.number in self._leaving)
        self._leaving.discard(node.number)
        self._downs.append(down)
        bound_ms = KNOWN_MS if silent else KNOWN_REFUSED_MS
        self._agenda.at(self._agenda.now_ms + bound_ms, self._check_known, down, bound_ms)

    def came_up(self, node: WorldNode) -> None:
        self._disturb(node)
        for down in self._downs:
            if down.node is node and down.until_ms is None:
                down.until_ms = self._agenda.now_ms
                down.due = down.due or self._reached()

    def leaves(self, node: WorldNode) -> None:
        self._leaving.add(node.number)
        self._disturb(node)

    def paused(self, node: WorldNode) -> None:
        self._paused_ms[node.number] = self._agenda.now_ms

    def resumed(self, node: WorldNode) -> None:
        if self._agenda.now_ms - self._paused_ms.pop(node.number) >= STOPPED_MS:
            self._disturb(node)

    def disturbed(self, node: WorldNode) -> None:
        """By a jump of its clock: what it said a moment ago may have expired, or be of days to come."""
        self._disturb(node)

    def disturbance_begins(self, nodes: list[WorldNode]) -> None:
        """A cut or a bad link around these."""
        for node in nodes:
            self._troubles[node.number] = self._troubles.get(node.number, 0) + 1
            self._disturb(node)

    def disturbance_ends(self, nodes: list[WorldNode]) -> None:
        for node in nodes:
            self._troubles[node.number] -= 1
            self._disturb(node)

    def _disturb(self, node: WorldNode) -> None:
        self._disturbed_ms[node.number] = self._agenda.now_ms + EXCUSED_MS
        self._calm_since_ms = self._agenda.now_ms

    def is_excused(self, node: WorldNode) -> bool:
        stopped_ms = self._agenda.now_ms - self._paused_ms.get(node.number, self._agenda.now_ms)
        is_disturbed = self._disturbed_ms.get(node.number, -1) >= self._agenda.now_ms
        is_in_trouble = self._troubles.get(node.number, 0) > 0
        return not node.is_running or stopped_ms >= STOPPED_MS or is_disturbed or is_in_trouble

    def _note(self, invariant: str, detail: str, *nodes: WorldNode) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            names = tuple(node.name for node in nodes)
            sentence = say.SENTENCES[invariant]
            self.violations.append(Violation(invariant, sentence, self._agenda.now_s, names, detail))

    # What nodes say and find -----------------------------------------------------------------------------------------

    def spoke(self, node: WorldNode, item: LivenessItem) -> None:
        if isinstance(item, Suspect):
            self._spoken.setdefault(self._world.number_of[item.subject], set()).add(node.number)

    def heard(self, node: WorldNode, heard: Heard) -> None:
        if heard.topic is not Topic.HEALTH:
            return
        if heard.author == node.peer:
            self._words[heard.author, heard.sequence] = _Word(
                self._agenda.now_ms, frozenset(each.number for each in self._world.nodes if each.is_awake)
            )
            self._agenda.at(self._agenda.now_ms + SPREAD_MS, self._count, heard.author, heard.sequence)
        elif (word := self._words.get((heard.author, heard.sequence))) is not None:
            word.has.add(node.number)

    def _count(self, author: PeerId, sequence: int) -> None:
        """Whoever was disturbed since it was said is not counted, nor is a mesh with cut ways, nor who has other clocks:
        words expire by the clock of whoever said them."""
        word = self._words.pop((author, sequence))
        own = self._world.number_of[author]
        if not self._world.ways.is_whole or self.is_excused(self._world.nodes[own]):
            return
        due = [each for each in word.nodes if each != own and self._can_hear(each, own)]
        self.said += len(due)
        self.in_time += sum(each in word.has for each in due)

    def _can_hear(self, number: int, author: int) -> bool:
        node, other = self._world.nodes[number], self._world.nodes[author]
        return not self.is_excused(node) and abs(node.wall_ms - other.wall_ms) <= SKEW_MS

    def changed(self, node: WorldNode, event: DetectorEvent) -> None:
        subject = self._world.nodes[self._world.number_of[event.peer]]
        self._check_incarnation(node, subject, event)
        if not isinstance(event, MemberDead):
            return
        down = next((each for each in reversed(self._downs) if each.node is subject), None)
        if down is not None and down.until_ms is None:
            down.knew_ms.setdefault(node.number, self._agenda.now_ms)
        elif not self.is_excused(subject) and not self.is_excused(node):
            self.false_deaths += 1
            self.detections.append(Detection(subject.name, None, self._agenda.now_s, None))
            self._note(say.FALSE_DEATH, f"{node.name} calls {subject.name} dead, which runs", node, subject)
        self._check_witnesses(node, subject)

    def _check_incarnation(self, node: WorldNode, subject: WorldNode, event: DetectorEvent) -> None:
        held = event.incarnation, node.suspicion.state(subject.peer)
        key = node.number * len(self._world.nodes) + subject.number, node.run
        before = self._held.get(key, (-1, State.ALIVE))
        self._held[key] = held
        if held < before:
            self._note(
                say.INCARNATIONS, f"{before} of {subject.name} became {held} at {node.name}", node, subject
            )
        own = self._highest_of(subject)
        if event.incarnation > own:
            detail = f"{node.name} holds {event.incarnation} of {subject.name}, which was never above {own}"
            self._note(say.INCARNATIONS, detail, node, subject)

    def _highest_of(self, node: WorldNode) -> int:
        highest = max(node.suspicion.incarnation, self._highest.get(node.number, 0))
        self._highest[node.number] = highest
        return highest

    def _check_witnesses(self, node: WorldNode, subject: WorldNode) -> None:
        spoken = self._spoken.get(subject.number, set())
        needed = min(limits.SUSPICIONS_NEEDED, len(self._world.nodes) - 1)
        if len(spoken) < needed and node.number not in spoken:
            self._note(say.WITNESSES, f"{len(spoken)} spoke of {subject.name}", node, subject)

    # What is looked at now and then ------------------------------------------------------------------------------------

    def _check_known(self, down: _Down, bound_ms: int) -> None:
        if down.until_ms is not None:
            return
        down.due = self._reached()
        for node in down.due:
            if node.suspicion.state(down.node.peer) <= State.SUSPECT:
                detail = f"{node.name} did not know after {bound_ms / 1000:g} s that {down.node.name} is down"
                self._note(say.DEATH_KNOWN, detail, node, down.node)

    def _reached(self) -> list[WorldNode]:
        return [node for node in self._world.nodes if node.is_awake and not self.is_excused(node)]

    def _check(self) -> None:
        self._agenda.at(self._agenda.now_ms + CHECK_MS, self._check)
        self._check_overlay()
        for node in self._world.nodes:
            authors, _ = node.gossip.size
            if (
                authors > limits.MEMBERS_MAX
                or len(node.gossip.neighbours) > NEIGHBOURS_MAX
                or len(node.suspicion.states()) > limits.MEMBERS_MAX
            ):
                self._note(say.BOUNDS, f"{authors} authors, {len(node.gossip.neighbours)} neighbours", node)

    def _check_overlay(self) -> None:
        now_ms = self._agenda.now_ms
        counted = self._reached()
        if not self._world.ways.is_whole or now_ms < STOPPED_MS + APART_MS or not counted:
            self._apart_since_ms = None
            return
        missing = self._unreached(counted)
        if not missing:
            self._apart_since_ms = None
        elif self._apart_since_ms is None:
            self._apart_since_ms = now_ms
        elif now_ms - self._apart_since_ms > APART_MS:
            self._note(
                say.OVERLAY, f"{len(missing)} of {len(counted)} are not linked with the others", *missing[:5]
            )
            self._apart_since_ms = None

    def _unreached(self, counted: list[WorldNode]) -> list[WorldNode]:
        """Over the links of all that are awake, those that are not counted included."""
        number_of = self._world.number_of
        reached, edge = {counted[0].number}, [counted[0]]
        while edge:
            found = [number_of[peer] for node in edge for peer in node.gossip.neighbours]
            fresh = sorted(
                {each for each in found if each not in reached and self._world.nodes[each].is_awake}
            )
            reached.update(fresh)
            edge = [self._world.nodes[each] for each in fresh]
        return [node for node in counted if node.number not in reached]

    # The end ---------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        for down in self._downs:
            self._detect(down)
        calm_ms = self._agenda.now_ms - self._calm_since_ms
        if calm_ms >= HEALED_MS and self._world.ways.is_whole and not self._paused_ms:
            self._check_healed()
            self._check_plans()
        if self.said and self.in_time / self.said < DELIVERED_SHARE:
            self._note(say.DELIVERY, f"{self.in_time} of {self.said} were there in time")

    def _detect(self, down: _Down) -> None:
        """`all_s` is of those that ran and were reached all the while; None if one of them never knew."""
        if not down.knew_ms or down.has_left:
            return
        due = self._reached() if down.due is None else down.due
        knew_ms = [down.knew_ms.get(node.number) for node in due if node is not down.node]
        known_ms = [each for each in knew_ms if each is not None]
        all_s = max(known_ms) / 1000 if known_ms and len(known_ms) == len(knew_ms) else None
        first_s = min(down.knew_ms.values()) / 1000
        self.detections.append(Detection(down.node.name, down.at_ms / 1000, first_s, all_s))

    def _check_healed(self) -> None:
        for node in self._world.nodes:
            if not node.is_running:
                continue
            states = node.suspicion.states()
            wrong = [
                other.name
                for other in self._world.nodes
                if other is not node
                and (states.get(other.peer, State.DEAD) is State.ALIVE) != other.is_running
            ]
            if wrong:
                self._note(say.HEALED, f"{node.name} is wrong about {', '.join(wrong[:8])}", node)

    def _check_plans(self) -> None:
        real_ms = EPOCH_MS + self._agenda.now_ms
        running = [
            node for node in self._world.nodes if node.is_running and abs(node.wall_ms - real_ms) <= SKEW_MS
        ]
        step = max(1, len(running) // PLANNERS)
        entry = self._world.nodes[0].peer
        planned = [(node, plan_of(node, entry)) for node in running[::step][:PLANNERS]]
        for (one, mine), (other, theirs) in pairwise(planned):
            if mine != theirs:
                self._note(say.PLANS, f"{one.name} and {other.name} plan differently", one, other)
