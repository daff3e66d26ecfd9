"""Who lives, who is suspected, who is dead: the failure detector of one node, as a machine without I/O.

Every member is probed by its `MONITORS` successors on a ring (`ring`, `probing`). A monitor that can't reach its subject
spreads a suspicion, and tells it directly to the subject and to those nearest to it on the ring, the other monitors first.
The subject refutes by raising its incarnation, which it alone may do. A suspicion of `SUSPICIONS_NEEDED` monitors that
stands for `REFUTE_S` makes its subject dead (`standing`): half as long if nobody listens at its address any more. Everybody
comes to that by the same rule from the same items, so no verdict is spread that could be forged.

The dead keep their last incarnation for `TOMBSTONE_S`: what was said before dying never revives them. Whoever are monitors
of a dead member keep saying so, for those who join later. A member that connects is told what is held against it.

A node that stands alone with its suspicion for `ALONE_S` goes by it itself, as when two of three have died.

After SWIM and Lifeguard (suspicion, incarnations, local health) and Rapid (fixed monitors, several of which must agree).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, assert_never

from mesh.liveness.detector import MemberAlive, MemberDead, MemberLeft, MemberSuspect, State
from mesh.liveness.probing import Probing
from mesh.liveness.ring import Ring
from mesh.liveness.standing import MET, NEVER, Doubt, Standing
from mesh.liveness.suspicion_events import (
    Alarm,
    Answered,
    Candidates,
    Connected,
    Cover,
    Disconnect,
    Heard,
    Input,
    Leave,
    Lost,
    Output,
    Ponged,
    Publish,
    Redial,
    Refused,
    Tell,
    Withdraw,
)
from protocols import limits
from protocols.ids import PeerId
from protocols.liveness import INCARNATION_MAX, Alive, Left, LivenessItem, Suspect

LATE_S: Final = 0.25
SHOWN_PAUSE_S: Final = 5.0  # two machines with one key would talk each other up


class Suspicion:
    """The machine of one node, which must call `start` first. `incarnation` is the first of this run."""

    def __init__(self, own: PeerId, incarnation: int, boot: bytes) -> None:
        self._own: Final = own
        self._boot: Final = boot
        self.incarnation = incarnation
        self.deadline = math.inf  # before `start`, nothing is late
        self._probing = Probing(self._helpers)
        self._standings: dict[PeerId, Standing] = {}
        self._candidates: frozenset[PeerId] = frozenset()
        self._connected: dict[PeerId, None] = {}  # in order, so that runs can be repeated
        self._accused: dict[PeerId, None] = {}  # whose standing has doubts to be weighed
        self._said: dict[PeerId, int] = {}  # own suspicions that are spread, with their incarnation
        self._ring = Ring((own,))
        self._refresh_at = math.inf
        self._raised_at = -math.inf
        self._has_left = False

    # What is known ------------------------------------------------------------------------------------------------

    @property
    def boot(self) -> bytes:
        """Drawn for this run of this node."""
        return self._boot

    def boot_of(self, peer: PeerId) -> bytes:
        """Of the run in which it was heard of last; empty if it never was."""
        standing = self._standings.get(peer)
        return b"" if standing is None else standing.boot

    def state(self, peer: PeerId) -> State:
        """DEAD for whoever was never heard of."""
        standing = self._standings.get(peer)
        return standing.state if standing is not None else State.DEAD

    def states(self) -> Mapping[PeerId, State]:
        """Of all members that were ever heard of."""
        return {
            peer: standing.state
            for peer, standing in self._standings.items()
            if standing.incarnation > NEVER and peer in self._candidates
        }

    def incarnation_of(self, peer: PeerId) -> int:
        """-1 before anything was heard."""
        standing = self._standings.get(peer)
        return standing.incarnation if standing is not None else NEVER

    @property
    def subjects(self) -> list[PeerId]:
        """Whom this node monitors."""
        return self._ring.predecessors(self._own, limits.MONITORS)

    @property
    def stretch(self) -> float:
        """1 if this node is on time; more for each sign that it isn't."""
        return self._probing.health.stretch

    # Events -------------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Output]:
        self._refresh_at = self._probing.round_at = now
        return self.handle(Alarm(), now)

    def handle(self, event: Input, now: float) -> list[Output]:
        """Never raises for what others say."""
        if self._has_left:
            return []
        if now - self.deadline > LATE_S:
            self._give_back(now - self.deadline)
        outputs = [*self._react(event, now), *self._judge(now)]
        self.deadline = self._next_deadline()
        return outputs

    def _react(self, event: Input, now: float) -> list[Output]:
        match event:
            case Candidates(peers):
                return self._choose(peers, now)
            case Connected(peer):
                self._connected[peer] = None
                return self._meet(peer, now)
            case Lost(peer):
                self._connected.pop(peer, None)
                return [Redial(peer)] if peer in self.subjects else []
            case Refused(peer):
                is_reached = peer in self._connected or peer not in self.subjects
                return [] if is_reached else self._suspect(peer, now, refused=True)
            case Ponged(peer, nonce):
                self._probing.reached(peer, nonce)
                return []
            case Answered(via, subject, nonce, reached):
                self._answered(via, subject, nonce, reached)
                return []
            case Heard(author, item):
                return self._hear(author, item, now) if author in self._candidates else []
            case Leave():
                return self._leave()
            case Alarm():
                return self._ring_alarm(now)
            case _:
                assert_never(event)

    def _give_back(self, lost_s: float) -> None:
        """All deadlines move, so that what is read next does not find the same time lost again."""
        self._refresh_at += lost_s
        self._probing.give_back(lost_s)
        self._probing.health.blame()
        for peer in self._accused:
            self._standings[peer].give_back(lost_s)

    def _ring_alarm(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        inquiries, unreachable = self._probing.due(now)
        outputs += inquiries
        for peer in unreachable:
            outputs += self._suspect(peer, now)
        if now >= self._probing.round_at:
            outputs += self._probing.begin_round(self.subjects, now)
            outputs += [*self._remind(now), *self._keep_tombstones(now)]
        if now >= self._refresh_at:
            outputs += self._say_alive(now)
        return outputs

    def _next_deadline(self) -> float:
        if self._has_left:
            return math.inf
        verdicts = (self._verdict_at(peer, self._standings[peer]) for peer in self._accused)
        earliest = min((at for at in verdicts if at is not None), default=math.inf)
        return min(self._probing.deadline, self._probing.round_at, self._refresh_at, earliest)

    # Members ------------------------------------------------------------------------------------------------------

    def _choose(self, peers: frozenset[PeerId], now: float) -> list[Output]:
        outputs: list[Output] = []
        gone, self._candidates = self._candidates - peers, peers - {self._own}
        for peer in sorted(gone):
            standing = self._standings.pop(peer, None)
            self._accused.pop(peer, None)
            if standing is not None and standing.is_living:
                outputs.append(MemberLeft(peer, standing.incarnation))
        self._reshape()
        for peer in self._connected:
            if self.incarnation_of(peer) == NEVER:
                outputs += self._meet(peer, now)
        return outputs

    def _meet(self, peer: PeerId, now: float) -> list[Output]:
        """Somebody is connected: the handshake proves that it runs, and not that it is what it was when it died."""
        if peer not in self._candidates:
            return []
        outputs: list[Output] = []
        standing = self._standing(peer, now)
        if standing.incarnation == NEVER:
            outputs += self._hear_alive(peer, Alive(MET, b""), now)
        items: tuple[LivenessItem, ...] = (self._alive(),)
        if standing.state in (State.SUSPECT, State.DEAD):
            items = (*items, Suspect(peer, standing.incarnation))
        return [*outputs, Tell(peer, items)]

    def _standing(self, peer: PeerId, now: float) -> Standing:
        return self._standings.setdefault(peer, Standing(now))

    def _reshape(self) -> None:
        living = [peer for peer in self._candidates if (s := self._standings.get(peer)) and s.is_living]
        self._ring = Ring((self._own, *living))

    def _monitors(self, peer: PeerId) -> list[PeerId]:
        """Whose word about a peer counts."""
        return self._ring.successors(peer, limits.MONITORS + limits.MONITORS_SLACK)

    def _needed(self, peer: PeerId) -> int:
        others = len(self._ring) - (peer in self._ring)
        return max(1, min(limits.SUSPICIONS_NEEDED, others))

    def _helpers(self, subject: PeerId) -> list[PeerId]:
        """The subject's other monitors have a stream to it already."""
        helpers = [peer for peer in self._monitors(subject) if peer in self._connected]
        return [peer for peer in helpers if self.state(peer) is State.ALIVE]

    def _answered(self, via: PeerId, subject: PeerId, nonce: int, reached: bool) -> None:
        if reached:
            self._probing.reached(subject, nonce)
        else:
            self._probing.not_reached(subject, via, nonce)

    # Suspicion ----------------------------------------------------------------------------------------------------

    def _suspect(self, peer: PeerId, now: float, *, refused: bool = False) -> list[Output]:
        standing = self._standings.get(peer)
        if standing is None or not standing.is_living:
            return []
        item = Suspect(peer, standing.incarnation, refused)
        if not standing.doubt(self._own, Doubt(item.incarnation, refused, now), self._monitors(peer)):
            return []
        self._accused[peer] = None
        self._said[peer] = item.incarnation
        told = [peer, *self._ring.successors(peer, limits.TOLD_DIRECTLY)]
        return [Publish(item), *(Tell(one, (item,)) for one in told if one in self._connected)]

    def _remind(self, now: float) -> list[Output]:
        """A subject that answers again and was suspected has not heard of it, or its answer was lost."""
        return [
            Tell(peer, (Suspect(peer, standing.incarnation),))
            for peer in self.subjects
            if (standing := self._standings[peer]).state is State.SUSPECT
            and peer in self._connected
            and now - standing.since >= limits.PROBE_INTERVAL_S
        ]

    def _keep_tombstones(self, now: float) -> list[Output]:
        """Of the dead as long as they are remembered, by whoever are their monitors now, and of nobody else."""
        outputs: list[Output] = []
        for peer, said in [*self._said.items()]:
            known = self._standings.get(peer)
            if known is not None and known.is_living and said < known.incarnation:
                del self._said[peer]
                outputs.append(Withdraw(peer))
        for peer, standing in [each for each in self._standings.items() if each[1].state > State.SUSPECT]:
            if now - standing.since > limits.TOMBSTONE_S:
                del self._standings[peer]
                self._accused.pop(peer, None)
                self._said.pop(peer, None)
            elif self._owes_tombstone(peer, standing):
                self._said[peer] = standing.incarnation
                outputs.append(Publish(Suspect(peer, standing.incarnation)))
        return outputs

    def _owes_tombstone(self, peer: PeerId, standing: Standing) -> bool:
        is_unsaid = self._said.get(peer, NEVER) < standing.incarnation
        is_monitor = self._own in self._ring.successors(peer, limits.MONITORS)
        return standing.state is State.DEAD and is_unsaid and is_monitor

    def _judge(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        for peer in [*self._accused]:
            standing = self._standings[peer]
            was, needed, monitors = standing.state, self._needed(peer), self._monitors(peer)
            standing.weigh(monitors, needed, now)
            if was is State.ALIVE and standing.state is State.SUSPECT:
                outputs.append(MemberSuspect(peer, standing.incarnation))
            due_at = self._verdict_at(peer, standing)
            if due_at is not None and due_at <= now:
                standing.bury(monitors, needed, now)
                outputs += self._mourn(peer, standing) if was <= State.SUSPECT else []
            if not standing.doubts or standing.state is State.DEAD:
                del self._accused[peer]
        return outputs

    def _verdict_at(self, peer: PeerId, standing: Standing) -> float | None:
        """When a doubted peer counts as dead. Who was never heard of alive is, as soon as enough say so."""
        if not standing.is_living:
            return standing.doubted_at
        refute_s = limits.REFUTE_S * self.stretch
        agreed = standing.verdict_at(self._monitors(peer), self._needed(peer), refute_s)
        own = standing.doubts.get(self._own)
        alone = own.since + limits.ALONE_S if own is not None else math.inf
        return min(alone, agreed if agreed is not None else math.inf)

    def _mourn(self, peer: PeerId, standing: Standing) -> list[Output]:
        self._ring.discard(peer)
        disconnect: list[Output] = [Disconnect(peer)] if peer in self._connected else []
        return [*disconnect, MemberDead(peer, standing.incarnation)]

    # What is said -------------------------------------------------------------------------------------------------

    def _hear(self, author: PeerId, item: LivenessItem, now: float) -> list[Output]:
        match item:
            case Alive():
                return self._hear_alive(author, item, now)
            case Suspect() if item.subject == self._own:
                return self._refute(author, item.incarnation, now)
            case Suspect():
                return self._hear_doubt(author, item, now)
            case Left():
                return self._hear_left(author, item.incarnation, now)
            case _:
                assert_never(item)

    def _hear_alive(self, author: PeerId, item: Alive, now: float) -> list[Output]:
        standing = self._standing(author, now)
        was, before = standing.state, standing.boot
        if not standing.alive(item.incarnation, item.boot, now):
            return self._show(author, standing, item.boot, now)
        if standing.doubts:  # of this incarnation, heard before it
            self._accused[author] = None
        if was is State.ALIVE and item.boot == before:
            return []
        if was > State.SUSPECT:
            self._ring.add(author)
        return [MemberAlive(author, item.incarnation)]

    def _show(self, peer: PeerId, standing: Standing, boot: bytes, now: float) -> list[Output]:
        """A run that has lost what an earlier one reserved learns what is known of that, and goes past it."""
        is_other_run = standing.boot not in (b"", boot) and peer in self._connected
        if not is_other_run or now - standing.shown_at < SHOWN_PAUSE_S:
            return []
        standing.shown_at = now
        return [Tell(peer, (Suspect(peer, standing.incarnation),))]

    def _hear_doubt(self, author: PeerId, item: Suspect, now: float) -> list[Output]:
        subject = item.subject
        if author == subject or subject not in self._candidates:
            return []
        doubt = Doubt(item.incarnation, item.refused, now)
        if not self._standing(subject, now).doubt(author, doubt, self._monitors(subject)):
            return []
        self._accused[subject] = None
        return [*self._probing.ping(subject, now)] if subject in self.subjects else []

    def _hear_left(self, author: PeerId, incarnation: int, now: float) -> list[Output]:
        standing = self._standing(author, now)
        if not standing.left(incarnation, now):
            return []
        self._ring.discard(author)
        return [MemberLeft(author, incarnation)]

    def _refute(self, monitor: PeerId, incarnation: int, now: float) -> list[Output]:
        if incarnation < self.incarnation:  # it has not heard of the latest
            return [Tell(monitor, (self._alive(),))] if monitor in self._connected else []
        is_wild = incarnation > self.incarnation + limits.INCARNATION_JUMP_MAX
        if is_wild or now - self._raised_at < limits.REFUTE_PAUSE_S:
            return []
        self._raised_at = now
        self.incarnation = min(incarnation + 1, INCARNATION_MAX)
        self._probing.health.blame()
        concerned = dict.fromkeys((monitor, *self._ring.successors(self._own, limits.TOLD_DIRECTLY)))
        told = [Tell(peer, (self._alive(),)) for peer in concerned if peer in self._connected]
        return [Cover(self.incarnation), *self._say_alive(now), *told]

    def _say_alive(self, now: float) -> list[Output]:
        self._refresh_at = now + limits.ALIVE_TTL_S / 3
        return [Publish(self._alive())]

    def _alive(self) -> Alive:
        return Alive(self.incarnation, self._boot)

    def _leave(self) -> list[Output]:
        self._has_left = True
        left = Left(self.incarnation)
        return [Publish(left), *(Tell(peer, (left,)) for peer in self._connected if peer in self._candidates)]
