"""What `mesh.liveness.watch.Watch` with its pingers and its messenger does around `Suspicion`, on the world's events.

A model in this: a stream on a connection that stands opens without a round trip, and errands are never too many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from mesh.liveness import suspicion_events as e
from mesh.liveness.detector import MemberAlive, MemberDead, MemberLeft, MemberSuspect, State
from mesh.liveness.messenger import PING_FOR_ANOTHER_S
from mesh.liveness.probing import AskAfter, Ping
from protocols import limits
from protocols.gossip import Heard
from protocols.ids import PeerId
from protocols.liveness import ITEM_CODEC, Alive, LivenessItem
from simulations.world.connecting import Dialled
from simulations.world.node import WorldNode

if TYPE_CHECKING:
    from simulations.world.world import World

PING_BYTES: Final = 60
ITEM_BYTES: Final = 120
PROBE_MS: Final = round(limits.PROBE_S * 1000)
INQUIRY_MS: Final = round(limits.INQUIRY_S * 1000)
PING_FOR_ANOTHER_MS: Final = round(PING_FOR_ANOTHER_S * 1000)


class _Question:
    """An inquiry that waits for its pong, or an asker for its answer; the first thing that comes counts."""

    def __init__(self, until_ms: int) -> None:
        self.until_ms = until_ms
        self.is_answered = False


class Watching:
    def __init__(self, world: World) -> None:
        self._world = world
        self._agenda = world.agenda

    def start(self, node: WorldNode) -> None:
        self.perform(node, node.suspicion.start(self._agenda.now_s))

    def handle(self, node: WorldNode, event: e.Input) -> None:
        self.perform(node, node.suspicion.handle(event, self._agenda.now_s))

    def heard(self, node: WorldNode, heard: Heard) -> None:
        """As `GossipBoard.items` gives them."""
        if heard.body and heard.author != node.peer:
            self.handle(node, e.Heard(heard.author, ITEM_CODEC.decode(heard.body)))

    def connected(self, node: WorldNode, other: int) -> None:
        self.handle(node, e.Connected(self._world.nodes[other].peer))
        self.tell_candidates(node)

    def connection_lost(self, node: WorldNode, other: int) -> None:
        self.handle(node, e.Lost(self._world.nodes[other].peer))
        self.tell_candidates(node)

    def tell_candidates(self, node: WorldNode) -> None:
        """As `mesh.members.driver.Members` does; the book of members stays the same in this world."""
        living = {peer for peer, state in node.suspicion.states().items() if state <= State.SUSPECT}
        candidates = frozenset(living.union(self._world.nodes[other].peer for other in node.connections))
        if candidates != node.told_candidates:
            node.told_candidates = candidates
            self._world.gossiping.set_candidates(node, candidates)

    # Outputs -------------------------------------------------------------------------------------------------------

    def perform(self, node: WorldNode, outputs: list[e.Output]) -> None:
        for output in outputs:
            self._do(node, output)
        self._world.gossiping.say(node)
        self._world.arm(node, "watch", node.suspicion.deadline, self._ring)

    def _ring(self, node: WorldNode) -> None:
        self.handle(node, e.Alarm())

    def _do(self, node: WorldNode, output: e.Output) -> None:
        match output:
            case e.Cover(incarnation):
                node.incarnation.cover(incarnation)
            case e.Publish(item):
                self._world.observer.spoke(node, item)
                node.board.publish(
                    item, limits.ALIVE_TTL_S if isinstance(item, Alive) else limits.TOMBSTONE_S
                )
            case e.Withdraw(subject):
                node.board.withdraw(subject)
            case e.Tell(peer, items):
                self._world.connecting.send(node, self._world.number_of[peer], ITEM_BYTES, self._told, items)
            case e.Redial(peer):
                self._redial(node, self._world.number_of[peer])
            case e.Disconnect(peer):
                self._close(node, peer)
            case Ping(peer, nonce):
                self._ping(node, self._world.number_of[peer], nonce)
            case AskAfter():
                self._ask_after(node, output)
            case MemberAlive() | MemberSuspect() | MemberDead() | MemberLeft():
                self._world.changed(node, output)
                if isinstance(output, MemberLeft):
                    node.dialling.forget(output.peer)
                    self._close(node, output.peer)
                self.tell_candidates(node)
            case _:
                assert_never(output)

    def _close(self, node: WorldNode, peer: PeerId) -> None:
        """Behind what is being done, because it is an event in turn."""
        self._agenda.at(self._agenda.now_ms, self._world.connecting.close, node, self._world.number_of[peer])

    def _told(self, node: WorldNode, source: int, items: tuple[LivenessItem, ...]) -> None:
        for item in items:
            self.handle(node, e.Heard(self._world.nodes[source].peer, item))

    def _redial(self, node: WorldNode, to: int) -> None:
        def done(dialled: Dialled) -> None:
            if dialled is Dialled.REFUSED:
                self.handle(node, e.Refused(self._world.nodes[to].peer))

        self._world.connecting.dial(node, to, PROBE_MS, done)

    # Pings ---------------------------------------------------------------------------------------------------------

    def _ping(self, node: WorldNode, to: int, nonce: int) -> None:
        """A pinger dials if it has to, and tells at once if nobody listens."""
        if self._world.connecting.send(node, to, PING_BYTES, self._pinged, nonce):
            return

        def done(dialled: Dialled) -> None:
            if dialled is Dialled.REFUSED:
                self.handle(node, e.Refused(self._world.nodes[to].peer))
            elif dialled is Dialled.CONNECTED:
                self._world.connecting.send(node, to, PING_BYTES, self._pinged, nonce)

        self._world.connecting.dial(node, to, round(limits.DIAL_S * 1000), done)

    def _pinged(self, node: WorldNode, source: int, nonce: int) -> None:
        self._world.connecting.send(node, source, PING_BYTES, self._ponged, nonce)

    def _ponged(self, node: WorldNode, source: int, nonce: int) -> None:
        self.handle(node, e.Ponged(self._world.nodes[source].peer, nonce))

    # Inquiries -----------------------------------------------------------------------------------------------------

    def _ask_after(self, node: WorldNode, asked: AskAfter) -> None:
        via = self._world.number_of[asked.via]
        question = _Question(self._agenda.now_ms + INQUIRY_MS)
        self._world.connecting.send(node, via, PING_BYTES, self._inquired, asked, question)

    def _inquired(self, node: WorldNode, source: int, asked: AskAfter, question: _Question) -> None:
        """Only over a connection that is there."""
        own = _Question(self._agenda.now_ms + PING_FOR_ANOTHER_MS)
        subject = self._world.number_of[asked.subject]
        if self._world.connecting.send(
            node, subject, PING_BYTES, self._pinged_for, source, asked, question, own
        ):
            self._agenda.at(own.until_ms, self._gave_up, node, node.run, source, asked, question, own)
        else:
            self._answer(node, source, asked, question, own, reached=False)

    def _pinged_for(
        self, node: WorldNode, via: int, asker: int, asked: AskAfter, question: _Question, own: _Question
    ) -> None:
        self._world.connecting.send(node, via, PING_BYTES, self._ponged_for, asker, asked, question, own)

    def _ponged_for(
        self, node: WorldNode, _: int, asker: int, asked: AskAfter, question: _Question, own: _Question
    ) -> None:
        if self._agenda.now_ms <= own.until_ms:
            self._answer(node, asker, asked, question, own, reached=True)

    def _gave_up(
        self, node: WorldNode, run: int, asker: int, asked: AskAfter, question: _Question, own: _Question
    ) -> None:
        if node.run != run or not node.is_running:
            return
        if node.is_paused:
            node.backlog.append((self._gave_up, (node, run, asker, asked, question, own)))
        else:
            self._answer(node, asker, asked, question, own, reached=False)

    def _answer(
        self, node: WorldNode, to: int, asked: AskAfter, question: _Question, own: _Question, *, reached: bool
    ) -> None:
        if not own.is_answered:
            own.is_answered = True
            self._world.connecting.send(node, to, PING_BYTES, self._answered, asked, question, reached)

    def _answered(self, node: WorldNode, _: int, asked: AskAfter, question: _Question, reached: bool) -> None:
        if self._agenda.now_ms <= question.until_ms:
            self.handle(node, e.Answered(asked.via, asked.subject, asked.nonce, reached))
