"""Many detectors on one virtual clock, without trio: events in a heap, links that lose, machines that stall and die.

Streams are reliable, so a loss is a delay of one retransmission or more. A stalled or stopped machine handles nothing
until it runs again, and then everything at once, oldest first, as a process does whose sockets have filled meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from mesh.liveness import suspicion_events as e
from mesh.liveness.detector import DetectorEvent, MemberAlive, MemberDead, MemberLeft, MemberSuspect, State
from mesh.liveness.probing import AskAfter, Ping
from mesh.liveness.suspicion import Suspicion
from protocols.ids import PeerId
from protocols.liveness import LivenessItem, Suspect, key_of
from simulations.network.internet import peer_id

RTO_S = 0.2
GOSSIP_S = (0.05, 0.2)  # an item waits for its bundle, and makes a few hops
PING_FOR_ANOTHER_S = 0.3


@dataclass
class Machine:
    """One node. `stalled_until` is infinite for one that was stopped."""

    peer: PeerId
    suspicion: Suspicion
    is_running: bool = True
    starts: int = 1
    stalled_until: float = 0.0
    alarm_at: float = 0.0
    backlog: list[Callable[[], None]] = field(default_factory=list)
    events: list[tuple[float, DetectorEvent]] = field(default_factory=list)


class SuspicionWorld:
    """`count` nodes, all connected."""

    def __init__(self, count: int, seed: int, loss: float = 0.0, latency_s: Sequence[float] = (0.004, 0.03)):
        self.now = 0.0
        self.random = Random(seed)
        self.loss = loss
        self.latency_s = latency_s
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.board: dict[tuple[PeerId, str], LivenessItem] = {}
        self.cut: set[frozenset[PeerId]] = set()
        self._floor: defaultdict[tuple[PeerId, PeerId], float] = defaultdict(float)
        peers = [peer_id(number) for number in range(count)]
        self.machines = {peer: self._made(peer) for peer in peers}
        for peer in peers:
            self.at(self.random.random(), lambda peer=peer: self._start(peer))

    # Time -----------------------------------------------------------------------------------------------------------

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), what))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] <= until:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = until

    def run_for(self, seconds: float) -> None:
        self.run(self.now + seconds)

    # What happens to machines ----------------------------------------------------------------------------------------

    def kill(self, peer: PeerId) -> None:
        machine = self.machines[peer]
        machine.is_running = False
        machine.backlog.clear()
        for other in self.machines.values():
            if other.peer != peer and other.is_running:
                self._send(peer, other.peer, e.Lost(peer))

    def restart(self, peer: PeerId) -> None:
        old = self.machines[peer]
        self.machines[peer] = self._made(peer, starts=old.starts + 1)
        self.machines[peer].events = old.events
        self._start(peer)

    def stall(self, peer: PeerId, seconds: float) -> None:
        machine = self.machines[peer]
        machine.stalled_until = self.now + seconds
        self.at(machine.stalled_until, lambda: self._resume(machine))

    def stop(self, peer: PeerId) -> None:
        self.machines[peer].stalled_until = float("inf")

    def resume(self, peer: PeerId) -> None:
        self.machines[peer].stalled_until = self.now
        self._resume(self.machines[peer])

    def _resume(self, machine: Machine) -> None:
        backlog, machine.backlog = machine.backlog, []
        for what in backlog:
            what()

    # What they come to ------------------------------------------------------------------------------------------------

    def states_of(self, subject: PeerId) -> set[State]:
        return {
            machine.suspicion.state(subject)
            for machine in self.machines.values()
            if self._is_awake(machine) and machine.peer != subject
        }

    def known_dead_after(self, subject: PeerId, since: float) -> float:
        """When the last of the running ones knew; infinite if one does not."""
        return max(
            min((at for at, event in machine.events if at >= since and isinstance(event, MemberDead) and event.peer == subject), default=float("inf"))
            for machine in self.machines.values()
            if self._is_awake(machine) and machine.peer != subject
        ) - since  # fmt: skip

    def _is_awake(self, machine: Machine) -> bool:
        return machine.is_running and machine.stalled_until <= self.now

    def deaths(self) -> list[tuple[float, PeerId, PeerId]]:
        return [
            (at, machine.peer, event.peer)
            for machine in self.machines.values()
            for at, event in machine.events
            if isinstance(event, MemberDead)
        ]

    # Machinery --------------------------------------------------------------------------------------------------------

    def _made(self, peer: PeerId, starts: int = 1) -> Machine:
        boot = self.random.randbytes(8)
        return Machine(peer, Suspicion(peer, 1000 * (starts - 1) + 1, boot), starts=starts)

    def _start(self, peer: PeerId) -> None:
        machine = self.machines[peer]
        machine.alarm_at = self.now
        self._perform(machine, machine.suspicion.start(self.now))
        self._handle(machine, e.Candidates(frozenset(self.machines)))
        for other in self.machines.values():
            if other is not machine and other.is_running and machine.is_running:
                self._connect(peer, other.peer)
        for (author, _), item in [*self.board.items()]:
            if author != peer:
                self._handle(machine, e.Heard(author, item))

    def _connect(self, one: PeerId, two: PeerId) -> None:
        if not self._is_cut(one, two):
            self._send(one, two, e.Connected(one))
            self._send(two, one, e.Connected(two))

    def _is_cut(self, one: PeerId, two: PeerId) -> bool:
        return frozenset((one, two)) in self.cut

    def _delay(self) -> float:
        delay = self.random.uniform(*self.latency_s)
        rto = RTO_S
        while self.random.random() < self.loss:
            delay, rto = delay + rto, 2 * rto
        return delay

    def _send(self, source: PeerId, to: PeerId, event: e.Input) -> None:
        self._later(source, to, self._delay(), lambda machine: self._handle(machine, event))

    def _later(self, source: PeerId, to: PeerId, delay: float, what: Callable[[Machine], None]) -> None:
        if source != to and self._is_cut(source, to):
            return
        self.at(self.now + delay, lambda: self._when_running(self.machines[to], what))

    def _when_running(self, machine: Machine, what: Callable[[Machine], None]) -> None:
        if not machine.is_running:
            return
        if self.now < machine.stalled_until:
            machine.backlog.append(lambda: self._when_running(machine, what))
        else:
            what(machine)

    def _handle(self, machine: Machine, event: e.Input) -> None:
        self._perform(machine, machine.suspicion.handle(event, self.now))

    def _perform(self, machine: Machine, outputs: Sequence[e.Output]) -> None:
        for output in outputs:
            self._do(machine, output)
        self._arm(machine)

    def _arm(self, machine: Machine) -> None:
        deadline = machine.suspicion.deadline
        if deadline < machine.alarm_at or machine.alarm_at <= self.now:
            machine.alarm_at = deadline
            self.at(deadline, lambda: self._when_running(machine, self._ring))

    def _ring(self, machine: Machine) -> None:
        machine.alarm_at = self.now
        self._handle(machine, e.Alarm())

    def _do(self, machine: Machine, output: e.Output) -> None:
        me = machine.peer
        match output:
            case e.Publish(item):
                self.board[me, key_of(item)] = item
                for other in self.machines:
                    if other != me:
                        delay = self.random.uniform(*GOSSIP_S) + self._delay()
                        heard = e.Heard(me, item)
                        self._later(me, other, delay, lambda to, heard=heard: self._handle(to, heard))
            case e.Withdraw(subject):
                self.board.pop((me, key_of(Suspect(subject, 0))), None)
            case e.Tell(peer, items):
                for item in items:
                    self._send(me, peer, e.Heard(me, item))
            case e.Redial(peer):
                self._redial(me, peer)
            case e.Disconnect(peer):
                self._send(me, peer, e.Lost(me))
                self._handle(machine, e.Lost(peer))
                self.at(self.now + 0.5, lambda: self._dial_again(me, peer))
            case Ping(peer, nonce):
                self._ping(me, peer, lambda: self._send(peer, me, e.Ponged(peer, nonce)))
            case AskAfter(via, subject, nonce):
                self._later(me, via, self._delay(), lambda _: self._ask(me, via, subject, nonce))
            case MemberAlive() | MemberSuspect() | MemberDead() | MemberLeft():
                machine.events.append((self.now, output))
            case e.Cover():
                pass

    def _ping(self, source: PeerId, to: PeerId, ponged: Callable[[], None]) -> None:
        self._later(source, to, self._delay(), lambda _: ponged())

    def _ask(self, asker: PeerId, via: PeerId, subject: PeerId, nonce: int) -> None:
        is_open = [True]

        def say(reached: bool) -> None:
            if is_open.pop() if is_open else False:
                self._send(via, asker, e.Answered(via, subject, nonce, reached))

        self._ping(via, subject, lambda: self._later(subject, via, self._delay(), lambda _: say(True)))
        self.at(
            self.now + PING_FOR_ANOTHER_S,
            lambda: self._when_running(self.machines[via], lambda _: say(False)),
        )

    def _redial(self, me: PeerId, peer: PeerId) -> None:
        delay = 2 * self.random.uniform(*self.latency_s)
        if not self.machines[peer].is_running:
            self._later(me, me, delay, lambda machine: self._handle(machine, e.Refused(peer)))
        elif self.machines[peer].stalled_until <= self.now:
            self.at(self.now + delay, lambda: self._connect(me, peer))

    def _dial_again(self, me: PeerId, peer: PeerId) -> None:
        """As dialling does for every member that is not connected; a stopped one completes no handshake."""
        there = self.machines[peer]
        if not (self.machines[me].is_running and there.is_running):
            return
        if there.stalled_until > self.now or self._is_cut(me, peer):
            self.at(self.now + 2.0, lambda: self._dial_again(me, peer))
        else:
            self._connect(me, peer)
