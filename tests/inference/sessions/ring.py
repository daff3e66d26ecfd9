"""A ring on hand-made placement: virtual nodes with virtual workers, every range on two of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from inference.sessions import events as e
from inference.sessions.entry import Entry
from inference.sessions.relay import Relay
from inference.sessions.shard import HeldShard, ShardServer
from protocols.errors import WeftError
from protocols.ids import ModelDigest, PeerId, SessionId
from protocols.observations import Outcome
from protocols.placement import Claim, LayerRange
from protocols.seams import ShardId, ShardSpec
from protocols.session import Sampling
from protocols.tensor import DType
from simulations.machine.arithmetic import WIDTH, virtual_config
from simulations.machine.worker import VirtualWorker
from simulations.network.internet import NETWORK_ID, VirtualNetwork, VirtualWorld
from tests.contracts.talk import introduce

MODEL = ModelDigest("ab" * 32)
LAYERS = 9


@dataclass
class RingNode:
    """What a daemon has of sessions, and nothing else. `holds` are its ranges."""

    network: VirtualNetwork
    worker: VirtualWorker
    is_exact: bool = True
    holds: list[LayerRange] = field(default_factory=list)
    mapped: list[LayerRange] = field(default_factory=list)  # to be loaded when a session opens them
    loaded_steps: int = 0
    free_before: int = 0  # memory before any session

    def __post_init__(self) -> None:
        self.relay = Relay(self.network, NETWORK_ID)
        self.server = ShardServer(self.network, NETWORK_ID, self.relay, self.worker, self)
        self.seen: list[tuple[PeerId, Outcome, str]] = []
        self.entry = Entry(self.network, NETWORK_ID, self.relay, lambda *seen: self.seen.append(seen))

    @property
    def peer(self) -> PeerId:
        return self.network.peer

    def held(self, model: ModelDigest, layers: LayerRange) -> HeldShard | None:
        if model != MODEL or layers not in self.holds:
            return None
        return HeldShard(ShardId(model, layers), WIDTH, DType.F32, self.is_exact)

    def can_load(self, model: ModelDigest, layers: LayerRange, entry: PeerId) -> bool:
        return model == MODEL and layers in self.mapped

    async def load(self, model: ModelDigest, layers: LayerRange) -> None:
        if layers not in self.holds:
            await self.hold(layers)

    def load_work(self) -> int:
        return self.loaded_steps

    async def hold(self, layers: LayerRange) -> None:
        spec = ShardSpec(ShardId(MODEL, layers), virtual_config(LAYERS), (), "f32", "exact")
        await self.worker.load(spec, self._advance)
        self.holds.append(layers)

    def _advance(self, _done_bytes: int, _total_bytes: int) -> None:
        self.loaded_steps += 1

    def claim(self, layers: LayerRange) -> Claim:
        numerics = "exact" if self.is_exact else "fast"
        return Claim(self.peer, MODEL, layers, False, "f32", numerics, "virtual", 1.0, 1)


@dataclass
class Ring:
    """`nodes[i]` holds `ranges[i]`, and the standby of `ranges[i - 1]`."""

    world: VirtualWorld
    nodes: Sequence[RingNode]
    ranges: Sequence[LayerRange]
    entry: RingNode

    def claims(self) -> list[Claim]:
        return [node.claim(layers) for node, layers in zip(self.nodes, self.ranges, strict=True)]

    def replace(self, layers: LayerRange, excluded: frozenset[PeerId]) -> PeerId | None:
        fitting = [
            node.peer
            for node in self.nodes
            if layers in (*node.holds, *node.mapped) and node.peer not in excluded
        ]
        return fitting[0] if fitting else None

    def kill(self, node: RingNode) -> None:
        self.world.kill(node.peer)

    @property
    def is_clean(self) -> bool:
        """No node keeps anything of any session."""
        return all(
            not node.server.sessions and node.worker.free_bytes() == node.free_before for node in self.nodes
        )


@asynccontextmanager
async def open_ring(
    size: int = 3,
    *,
    standbys: bool = True,
    mapped: bool = False,
    load_s: float = 0.1,
    is_exact: bool = True,
    entry: int = 0,
    row_ms: float = 0.01,
) -> AsyncIterator[Ring]:
    """A ring of `size` nodes that divide the layers evenly, ready to generate at the node `entry`."""
    world = VirtualWorld(latency_s=0.002)
    nodes = [
        RingNode(world.network(), VirtualWorker(row_ms=row_ms, load_s=load_s), is_exact) for _ in range(size)
    ]
    ranges = [LayerRange(LAYERS * at // size, LAYERS * (at + 1) // size) for at in range(size)]
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.network.run())
        introduce(*(node.network for node in nodes))
        for at, node in enumerate(nodes):
            await node.hold(ranges[at])
            if mapped:
                node.mapped.append(ranges[at - 1])
            elif standbys and size > 1:
                await node.hold(ranges[at - 1])
            node.free_before = node.worker.free_bytes()
        async with trio.open_nursery() as nursery:
            for node in nodes:
                await nursery.start(node.relay.run)
            yield Ring(world, nodes, ranges, nodes[entry])
            nursery.cancel_scope.cancel()


def order(tokens: int = 40, prompt: int = 20, sampling: Sampling | None = None, number: int = 1) -> e.Order:
    """A prompt of `prompt` rows with `tokens` to generate."""
    ids = tuple((7 * at + 3) % 4096 for at in range(prompt))
    return e.Order(SessionId(f"{number:032x}"), MODEL, ids, prompt + tokens, sampling or Sampling())


@dataclass
class Run:
    """What a session gave."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    recoveries: list[e.Recovered] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    reason: str = ""
    error: WeftError | None = None


async def generate(ring: Ring, wanted: e.Order, faults: dict[int, object] | None = None) -> Run:
    """Run a session to its end; `faults[n]` is called once n tokens are there."""
    run, last_s = Run(), trio.current_time()
    async with ring.entry.entry.generate(wanted, ring.claims(), ring.replace) as happenings:
        async for event in happenings:
            match event:
                case e.Emit(position, token):
                    run.tokens.append(token)
                    run.positions.append(position)
                    run.gaps_s.append(trio.current_time() - last_s)
                    last_s = trio.current_time()
                    fault = (faults or {}).pop(len(run.tokens), None)
                    if callable(fault):
                        fault()
                case e.Recovered():
                    run.recoveries.append(event)
                case e.Finish(reason):
                    run.reason = reason
                case e.Fail(error):
                    run.error = error
    return run
