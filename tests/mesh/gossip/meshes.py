"""Many gossip machines in one process, on virtual time, with latency and loss: no trio, no sockets, no signatures that cost.

Every message is lost with the same chance, links' openings included, though the streams of a real mesh lose none: it stands
for neighbours that die, stall and are dropped while a message is on its way.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random

from mesh.gossip.events import (
    Alarm,
    Candidates,
    Close,
    Deliver,
    Event,
    Lost,
    Open,
    Opened,
    Publish,
    Received,
    Send,
)
from mesh.gossip.intake import Rules, Validator
from mesh.gossip.machine import Machine
from protocols.gossip import Bundle, GossipMessage, Heard, Item, Push, Topic, encode_bundle
from protocols.ids import PeerId
from simulations.machine.clock import EPOCH_S
from simulations.network.internet import peer_id


def seal(author: PeerId, body: bytes) -> bytes:
    """Stands for a signature: 64 bytes that only `author` is meant to make."""
    return hashlib.sha512(author.encode() + body).digest()


def is_sealed(author: PeerId, body: bytes, signature: bytes) -> bool:
    return signature == seal(author, body)


def push_of(author: PeerId, sequence: int, *items: Item, made_ms: int | None = None, hops: int = 1) -> Push:
    """A bundle as a neighbour would push it."""
    body = encode_bundle(Bundle(author, sequence, sequence if made_ms is None else made_ms, items))
    return Push(hops, body, seal(author, body))


class Chance:
    """`Randomness` from a seed, faster than the one of the simulations."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def machine(
    own: PeerId,
    seed: int = 1,
    is_member: Callable[[PeerId], bool] = lambda _: True,
    validators: Mapping[Topic, Validator] | None = None,
    is_signed: Callable[[PeerId, bytes, bytes], bool] = is_sealed,
) -> Machine:
    rules = Rules(is_signed, is_member, validators or {})
    return Machine(own, partial(seal, own), rules, Chance(seed))


@dataclass
class World:
    """`latency_s` one way, per link; `loss` per message. What is `cut` gets nothing through and is not told."""

    seed: int = 1
    latency_s: tuple[float, float] = (0.005, 0.060)
    loss: float = 0.0
    now: float = 0.0
    nodes: dict[PeerId, Machine] = field(default_factory=dict)
    heard: dict[PeerId, dict[tuple[PeerId, str], float]] = field(default_factory=dict)
    sent: int = 0
    asleep: set[PeerId] = field(default_factory=set)
    is_cut: Callable[[PeerId, PeerId], bool] = lambda _one, _two: False

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._due: list[tuple[float, int, PeerId, Event]] = []
        self._order = itertools.count()
        self._alarms: dict[PeerId, float] = {}
        self._links: dict[frozenset[PeerId], float] = {}

    @property
    def wall_ms(self) -> int:
        return int((EPOCH_S + self.now) * 1000)

    def add(self, count: int) -> list[PeerId]:
        """Nodes that know of all there are now and were before."""
        made = [peer_id(len(self.nodes) + number) for number in range(count)]
        for number, peer in enumerate(made):
            self.nodes[peer] = machine(peer, seed=self.seed * 100_000 + len(self.nodes) + number)
            self.heard[peer] = {}
        return made

    def introduce(self, peers: Iterable[PeerId], to: Iterable[PeerId]) -> None:
        candidates = tuple(peers)
        for peer in to:
            self.do(peer, Candidates(candidates))

    def publish(self, peer: PeerId, key: str, body: bytes = b"x", ttl_s: float = 600) -> None:
        self.do(peer, Publish(Topic.HEALTH, key, body, ttl_s))

    def has(self, peer: PeerId, author: PeerId, key: str) -> bool:
        items = self.nodes[peer].items(Topic.HEALTH, self.wall_ms)
        return any((heard.author, heard.key) == (author, key) for heard in items)

    # Running --------------------------------------------------------------------------------------------------------

    def run(self, for_s: float) -> None:
        until = self.now + for_s
        while self._due and self._due[0][0] <= until:
            self.now, _, peer, event = heapq.heappop(self._due)
            if isinstance(event, Alarm) and self._alarms.get(peer) != self.now:
                continue
            self.do(peer, event)
        self.now = until

    def do(self, peer: PeerId, event: Event) -> None:
        """At once; a node that sleeps hears nothing and has no alarms until it wakes."""
        if peer in self.asleep:
            return
        node = self.nodes[peer]
        for output in node.handle(event, self.now, self.wall_ms):
            match output:
                case Send(peers, message):
                    for to in peers:
                        self._carry(peer, to, message)
                case Open(to):
                    self._open(peer, to)
                case Close(to):
                    if self._links.pop(frozenset((peer, to)), None):
                        self._later(self.now + 0.03, to, Lost(peer))
                case Deliver(heard):
                    self._note(peer, heard)
        self._set_alarm(peer, node.deadline)

    def _note(self, peer: PeerId, heard: Heard) -> None:
        self.heard[peer].setdefault((heard.author, heard.key), self.now)

    def wake(self, peer: PeerId) -> None:
        """Its links were given up while it slept."""
        self.asleep.discard(peer)
        self._break(lambda one, two: peer in (one, two))

    def notice_cut(self) -> None:
        """Both ends of every link that nothing gets through are told that it has ended."""
        self._break(self.is_cut)

    def _break(self, is_broken: Callable[[PeerId, PeerId], bool]) -> None:
        for link in [link for link in self._links if is_broken(*sorted(link))]:
            del self._links[link]
            one, two = sorted(link)
            self._later(self.now, one, Lost(two))
            self._later(self.now, two, Lost(one))

    def _set_alarm(self, peer: PeerId, at: float) -> None:
        at = max(at, self.now)
        if at != math.inf and self._alarms.get(peer) != at:
            self._alarms[peer] = at
            self._later(at, peer, Alarm())

    def _later(self, at: float, peer: PeerId, event: Event) -> None:
        heapq.heappush(self._due, (at, next(self._order), peer, event))

    def _open(self, one: PeerId, two: PeerId) -> None:
        link = frozenset((one, two))
        if self.is_cut(one, two) or two in self.asleep:
            self._later(self.now + 5.0, one, Lost(two))
            return
        self._links.setdefault(link, self._random.uniform(*self.latency_s))
        self._later(self.now + 2 * self._links[link], one, Opened(two))

    def _carry(self, one: PeerId, two: PeerId, message: GossipMessage) -> None:
        self.sent += 1
        latency_s = self._links.get(frozenset((one, two)))
        if latency_s is None or self.is_cut(one, two) or self._random.random() < self.loss:
            return
        self._later(self.now + latency_s, two, Received(one, message))
