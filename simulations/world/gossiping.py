"""What `mesh.gossip.driver.Gossip` and its links do around the gossip machine, on the world's events.

A model in this: messages are not encoded but for their bundles, an open stream takes one round trip, and a link that is not
read is given up when its connection is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from mesh.gossip import events as g
from mesh.picture.health import Vitals, digest_of, pause_s
from protocols import limits
from protocols.gossip import GossipMessage, Have, Join, Push, Topic
from protocols.health import HEALTH_CODEC, RangeHealth
from protocols.ids import ModelDigest, PeerId
from protocols.placement import LayerRange
from simulations.world.connecting import SMALL_BYTES, Dialled
from simulations.world.node import GossipLink, WorldNode

if TYPE_CHECKING:
    from simulations.world.world import World

OPEN_MS: Final = round(limits.OPEN_STREAM_S * 1000)
PAUSE_MS: Final = round(limits.GOSSIP_WRITE_PAUSE_S * 1000)
RECORD_BYTES: Final = 600
MODEL: Final = ModelDigest("ab" * 32)


class Gossiping:
    def __init__(self, world: World) -> None:
        self._world = world
        self._agenda = world.agenda
        self._streams = 0

    def set_candidates(self, node: WorldNode, peers: frozenset[PeerId]) -> None:
        self.handle(node, g.Candidates(tuple(sorted(peers))))

    def handle(self, node: WorldNode, event: g.Event) -> None:
        for output in node.gossip.handle(event, self._agenda.now_s, node.wall_ms):
            match output:
                case g.Send(peers, message):
                    for peer in peers:
                        self._send(node, self._world.number_of[peer], message)
                case g.Deliver(heard):
                    self._world.heard(node, heard)
                case g.Open(peer):
                    self._open(node, self._world.number_of[peer])
                case g.Close(peer):
                    self._close(node, self._world.number_of[peer])
                case _:
                    assert_never(output)
        self._world.arm(node, "gossip", node.gossip.deadline, self._ring)

    def _ring(self, node: WorldNode) -> None:
        self.handle(node, g.Alarm())

    # What nodes say --------------------------------------------------------------------------------------------------

    def say(self, node: WorldNode) -> None:
        """What was put on the board, behind the event in which it was."""
        while node.wants:
            wanted, node.wants = node.wants, []
            for word in wanted:
                self.handle(node, word)

    def begin_to_speak(self, node: WorldNode) -> None:
        """The record once, and the health every few seconds, as `mesh.picture.driver.Picture` does."""
        node.publish(Topic.RECORD, "", bytes(RECORD_BYTES), limits.RECORD_TTL_S)
        self.say(node)
        self._speak(node, node.run)

    def _speak(self, node: WorldNode, run: int) -> None:
        if node.run != run or not node.is_running:
            return
        if node.is_paused:
            node.backlog.append((self._speak, (node, run)))
            return
        body = HEALTH_CODEC.encode(digest_of(_vitals(node), node.wall_ms))
        told_every_s = pause_s(self._world.speakers)
        node.publish(Topic.HEALTH, "", body, limits.HEALTH_KEPT * told_every_s)
        self.say(node)
        jitter = (node.random.random() - 0.5) / 5
        self._agenda.at(
            self._agenda.now_ms + round(told_every_s * 1000 * (1 + jitter)), self._speak, node, run
        )

    # Links -----------------------------------------------------------------------------------------------------------

    def _open(self, node: WorldNode, to: int) -> None:
        self._streams += 1
        link = node.links.setdefault(to, GossipLink(self._streams, is_ours=True))
        run = node.run

        def dialled(how: Dialled) -> None:
            is_there = how is Dialled.CONNECTED and node.links.get(to) is link
            if not (
                is_there
                and self._world.connecting.send(node, to, SMALL_BYTES, self._asked_to_open, link.stream)
            ):
                self._forget(node, to, link)

        self._agenda.at(self._agenda.now_ms + OPEN_MS, self._give_up, node, run, to, link)
        self._world.connecting.dial(node, to, OPEN_MS, dialled)

    def _give_up(self, node: WorldNode, run: int, to: int, link: GossipLink) -> None:
        if node.run != run or not node.is_running or link.is_open:
            return
        if node.is_paused:
            node.backlog.append((self._give_up, (node, run, to, link)))
        else:
            self._forget(node, to, link)

    def _asked_to_open(self, node: WorldNode, source: int, stream: int) -> None:
        self._world.connecting.send(node, source, SMALL_BYTES, self._opened, stream)

    def _opened(self, node: WorldNode, source: int, stream: int) -> None:
        link = node.links.get(source)
        if link is not None and link.stream == stream:
            link.is_open = True
            self.handle(node, g.Opened(self._world.nodes[source].peer))

    def _send(self, node: WorldNode, to: int, message: GossipMessage) -> None:
        """What gathers while a busy link rests goes out as one."""
        link = node.links.get(to)
        if link is None:
            return
        now_ms = self._agenda.now_ms
        sent_ms = max(now_ms, link.free_ms)
        if sent_ms == now_ms:
            link.free_ms = now_ms + PAUSE_MS
        self._world.connecting.send(
            node, to, _size_bytes(message), self._received, link.stream, message, after_ms=sent_ms - now_ms
        )

    def _received(self, node: WorldNode, source: int, stream: int, message: GossipMessage) -> None:
        link = node.links.get(source)
        if link is not None and link.stream == stream:
            link.is_up = True
            if isinstance(message, Push):
                self._world.trace(message.signature)
            self.handle(node, g.Received(self._world.nodes[source].peer, message))
        elif isinstance(message, Join):
            self._serve(node, source, stream, message)

    def _serve(self, node: WorldNode, source: int, stream: int, first: Join) -> None:
        """As the driver does with a stream that a member opened."""
        peer = self._world.nodes[source].peer
        known = node.links.get(source)
        stays = known is not None and known.is_ours and not known.is_up and node.peer < peer
        if node.gossip.is_cut_off(peer, self._agenda.now_s) or stays:
            self._end(node, source, stream)
            return
        if known is not None:
            self._end(node, source, known.stream)
            self._forget(node, source, known)
        node.links[source] = GossipLink(stream, is_ours=False, is_open=True)
        self.handle(node, g.Received(peer, first))

    def _close(self, node: WorldNode, to: int) -> None:
        link = node.links.pop(to, None)
        if link is not None:
            self._end(node, to, link.stream, after_ms=max(0, link.free_ms - self._agenda.now_ms))

    def _end(self, node: WorldNode, to: int, stream: int, after_ms: int = 0) -> None:
        self._world.connecting.send(node, to, SMALL_BYTES, self._ended, stream, after_ms=after_ms)

    def _ended(self, node: WorldNode, source: int, stream: int) -> None:
        link = node.links.get(source)
        if link is not None and link.stream == stream:
            self._forget(node, source, link)

    def connection_lost(self, node: WorldNode, other: int) -> None:
        if (link := node.links.get(other)) is not None:
            self._forget(node, other, link)

    def _forget(self, node: WorldNode, to: int, link: GossipLink) -> None:
        if node.links.get(to) is link:
            del node.links[to]
            self.handle(node, g.Lost(self._world.nodes[to].peer))


def _size_bytes(message: GossipMessage) -> int:
    match message:
        case Push(_, body, _):
            return len(body) + SMALL_BYTES
        case Have(ids, _):
            return len(ids) + SMALL_BYTES
        case _:
            return SMALL_BYTES


def _vitals(node: WorldNode) -> Vitals:
    """Of a machine that is idle: what differs from node to node is its memory and its pace."""
    memory_bytes = node.spec.memory_mb << 20
    pace = RangeHealth(MODEL, LayerRange(0, 1), node.spec.layer_ms)
    return Vitals(1.0, memory_bytes, memory_bytes, 0.0, 0, 0, (pace,))
