"""One node of the world: the product's machines, and what lies between them and the others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from mesh.feed import Feed, Subscription
from mesh.gossip.events import Publish
from mesh.gossip.intake import Rules
from mesh.gossip.machine import Machine
from mesh.liveness.gossip_board import GossipBoard, check_liveness
from mesh.liveness.incarnation import Incarnation
from mesh.liveness.suspicion import Suspicion
from mesh.members.dialling import Dialling
from protocols.gossip import Heard, Topic
from protocols.health import HEALTH_CODEC
from protocols.ids import PeerId
from simulations.chance import Chance, chance
from simulations.machine.clock import EPOCH_S
from simulations.machine.disk import MemoryDisk
from simulations.scenarios.script import NodeSpec
from simulations.world.agenda import Agenda, Call

EPOCH_MS: Final = round(EPOCH_S * 1000)
BOOT_BYTES: Final = 8


def seal(author: PeerId, body: bytes) -> bytes:
    """Stands for a signature: 64 bytes over author and body. An Ed25519 check takes a hundred times as long."""
    return hashlib.blake2b(body, key=author.encode()[-32:]).digest()


def is_sealed(author: PeerId, body: bytes, signature: bytes) -> bool:
    return signature == seal(author, body)


class Draws:
    """Implements `protocols.seams.Randomness`."""

    def __init__(self, random: Chance) -> None:
        self._random = random

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def _check_health(heard: Heard) -> None:
    HEALTH_CODEC.decode(heard.body)


@dataclass(eq=False, slots=True)
class GossipLink:
    """A node's end of a gossip stream; both ends have the same `stream`. What waits is sent when the stream is open."""

    stream: int
    is_ours: bool
    is_open: bool = False
    is_up: bool = False
    free_ms: int = 0


@dataclass(eq=False)
class WorldNode:
    """`connections` has the number of the connection to each node there is one to. `run` counts the starts."""

    number: int
    peer: PeerId
    spec: NodeSpec
    seed: int
    agenda: Agenda
    is_speaker: bool = True
    run: int = 0
    is_running: bool = True
    is_powered: bool = True
    is_paused: bool = False
    skew_ms: float = 0.0
    drift_ppm: float = 0.0
    connections: dict[int, int] = field(default_factory=dict)
    links: dict[int, GossipLink] = field(default_factory=dict)
    backlog: list[Call] = field(default_factory=list)
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    told_candidates: frozenset[PeerId] = frozenset()
    alarms_ms: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.skew_ms = self.spec.skew_s * 1000
        self._unread: Feed[Heard] = Feed()
        self.make_machines()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_awake(self) -> bool:
        return self.is_running and not self.is_paused

    @property
    def wall_ms(self) -> int:
        drifted_ms = self.agenda.now_ms * self.drift_ppm / 1e6
        return EPOCH_MS + self.agenda.now_ms + round(self.skew_ms + drifted_ms)

    def make_machines(self) -> None:
        """As at every start of the process."""
        self.run += 1
        random = chance(self.seed, "node", self.number, self.run)
        self.random = random
        self.incarnation = Incarnation(self.disk)
        self.suspicion = Suspicion(self.peer, self.incarnation.first, random.randbytes(BOOT_BYTES))
        rules = Rules(
            is_sealed, lambda _: True, {Topic.LIVENESS: check_liveness, Topic.HEALTH: _check_health}
        )
        self.gossip = Machine(self.peer, lambda body: seal(self.peer, body), rules, Draws(random))
        self.board = GossipBoard(self, self.peer)
        self.dialling = Dialling(self.peer)
        self.connections = {}
        self.links = {}
        self.told_candidates = frozenset()
        self.alarms_ms = {}
        self.wants: list[Publish] = []

    # What `GossipBoard` needs ----------------------------------------------------------------------------------------

    def publish(self, topic: Topic, key: str, body: bytes, ttl_s: float) -> None:
        """Told to the gossip machine by `simulations.world.gossiping`, behind what is being done."""
        self.wants.append(Publish(topic, key, body, ttl_s))

    def items(self, topic: Topic) -> tuple[Heard, ...]:
        return self.gossip.items(topic, self.wall_ms)

    def subscribe(self, topic: Topic) -> Subscription[Heard]:
        """Nothing comes: the world hands news on when the machine delivers them."""
        del topic
        return self._unread.subscribe()
