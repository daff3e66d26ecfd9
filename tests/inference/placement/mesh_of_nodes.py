"""A mesh for placement tests: virtual network, workers and disks, and weights that travel without being looked at."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from inference.model.config import ModelConfig
from inference.model.config_json import parse_config
from inference.placement.driver import ModelToOffer, Placement
from inference.placement.holding.grants import GrantPolicy
from mesh.feed import Feed
from mesh.members.membership import MemberDown, MemberUp
from protocols.errors import Dishonest, Unavailable
from protocols.ids import ModelDigest, PeerId
from protocols.seams import PeerDown, PeerUp, TensorFile
from protocols.streams import Plane
from simulations.machine.disk import MemoryDisk
from simulations.machine.worker import VirtualWorker
from simulations.network.internet import NETWORK_ID, VirtualNetwork, VirtualWorld
from tests.contracts.talk import admit, contact_of
from tests.inference.placement.shared_board import SharedBoard

MODEL = ModelDigest("ab" * 32)
LAYERS = 8


def llama_config(layers: int = LAYERS) -> bytes:
    return json.dumps(
        {
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 64,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 64,
            "tie_word_embeddings": False,
        }
    ).encode()


def model_to_offer(name: str = "tiny", layers: int = LAYERS) -> ModelToOffer:
    config: ModelConfig = parse_config(llama_config(layers))
    return ModelToOffer(MODEL, name, config, "bf16", "exact")


class TravellingWeights:
    """Fetches by looking into the other node. `spoiled` tensors arrive with another hash."""

    def __init__(self, nodes: dict[PeerId, Node], own: PeerId) -> None:
        self.nodes, self.own = nodes, own
        self.tensors: set[str] = set()
        self.config: bytes | None = None
        self.spoiled: set[str] = set()
        self.fetch_s = 0.1
        self.warm_s = 0.01
        self.fetched: list[str] = []

    async def config_of(self, model: ModelDigest, from_peers: tuple[PeerId, ...]) -> bytes:
        if self.config is None:
            await trio.sleep(self.fetch_s)
            found = [self.nodes[peer].weights.config for peer in from_peers if self.nodes[peer].is_up]
            self.config = next((config for config in found if config is not None), None)
        if self.config is None:
            raise Unavailable("nobody has the manifest")
        return self.config

    async def tokenizer_of(self, model):
        return ""

    async def ensure(self, model, tensor_names, from_peers, on_progress):
        missing = [name for name in tensor_names if name not in self.tensors]
        for done, name in enumerate(missing):
            on_progress(done * 100, len(missing) * 100)
            await trio.sleep(self.fetch_s)
            holders = [
                peer
                for peer in from_peers
                if self.nodes[peer].is_up and name in self.nodes[peer].weights.tensors
            ]
            if not holders:
                raise Unavailable(f"nobody has the tensor {name}")
            if name in self.nodes[holders[0]].weights.spoiled:
                raise Dishonest(f"tensor {name} arrived with another hash", holders[0])
            self.tensors.add(name)
            self.fetched.append(name)
        return tuple(TensorFile(name, "weights.safetensors", name) for name in tensor_names)

    async def free_disk_bytes(self):
        return None

    async def warm(self, model, tensor_names, on_progress):
        for done, name in enumerate(tensor_names):
            assert name in self.tensors
            await trio.sleep(self.warm_s)
            on_progress((done + 1) * 100, len(tensor_names) * 100)


class ConnectedMembers:
    """Everybody is a member from the start, and up while connected on the control plane."""

    def __init__(self, nodes: dict[PeerId, Node], own: Node) -> None:
        self.nodes, self.own = nodes, own
        self.up: set[PeerId] = set()
        self.feed: Feed = Feed()

    def members(self):
        return tuple(contact_of(node.network) for node in self.nodes.values() if node.is_up)

    def is_up(self, peer):
        return peer in self.up or peer == self.own.peer

    def subscribe(self):
        return self.feed.subscribe()

    async def follow(self, events):
        async for event in events:
            if event.plane is not Plane.CONTROL:
                continue
            match event:
                case PeerUp(peer):
                    self.up.add(peer)
                    self.feed.tell(MemberUp(peer))
                case PeerDown(peer):
                    self.up.discard(peer)
                    self.feed.tell(MemberDown(peer))


class Node:
    """One daemon's placement; `disk` and `weights` outlive a kill."""

    def __init__(self, mesh: Mesh, policy: GrantPolicy, **worker) -> None:
        self.mesh = mesh
        self.policy = policy
        self.disk = MemoryDisk()
        self.network: VirtualNetwork = mesh.world.network()
        self.peer = self.network.peer
        self.weights = TravellingWeights(mesh.nodes, self.peer)
        self.worker_options = worker
        self.is_up = False
        self.scope = trio.CancelScope()

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        self.scope = trio.CancelScope()
        self.worker = VirtualWorker(**self.worker_options)
        with self.scope:
            async with self.network.run(), trio.open_nursery() as nursery:
                self.is_up = True
                self.members = ConnectedMembers(self.mesh.nodes, self)
                events = self.network.events()
                nursery.start_soon(self.members.follow, events)
                self.board = SharedBoard(self)
                self.placement = Placement(
                    self.network,
                    NETWORK_ID,
                    self.members,
                    self.board,
                    self.disk,
                    self.worker,
                    self.weights,
                    self.policy,
                )
                await nursery.start(self.placement.run)
                task_status.started()
                await trio.sleep_forever()

    def kill(self) -> None:
        """SIGKILL: the connections are reset, memory is gone."""
        self.is_up = False
        self.mesh.world.kill(self.peer)
        self.scope.cancel()

    async def restart(self) -> None:
        self.network = self.mesh.world.network(self.peer)
        await self.mesh.nursery.start(self.run)
        await self.mesh.connect()

    def held(self):
        """(range, standby) of what it claims."""
        return sorted((str(each.claim.range), each.claim.standby) for each in self.placement.own_shards())

    def sees(self):
        """What its table says: (holder, range, standby)."""
        claims = self.placement.claims.claims(MODEL)
        return sorted((claim.holder, str(claim.range), claim.standby) for claim in claims)

    def available_bytes(self) -> int:
        grants = self.placement._holder.grants
        return grants.available_bytes(self.worker.free_bytes(), trio.current_time())


class Mesh:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.world = VirtualWorld()
        self.nodes: dict[PeerId, Node] = {}

    async def add(self, policy: GrantPolicy = GrantPolicy(), **worker) -> Node:  # noqa: B008
        node = Node(self, policy, **worker)
        self.nodes[node.peer] = node
        await self.nursery.start(node.run)
        await self.connect()
        return node

    async def connect(self) -> None:
        """Everybody knows, admits and is connected to everybody who is up."""
        up = [node for node in self.nodes.values() if node.is_up]
        for node in up:
            admit(node.network, *self.nodes)
            for other in up:
                if other is not node:
                    node.network.learn(contact_of(other.network))
        for one in up:
            for two in up:
                if one.peer < two.peer:
                    await one.network.connect(two.peer, Plane.CONTROL)
        await trio.sleep(0.1)

    def give_model(self, *nodes: Node) -> None:
        for node in nodes:
            node.weights.config = llama_config()
            config = parse_config(llama_config())
            node.weights.tensors |= set(config.tensor_names(config.whole))


@asynccontextmanager
async def mesh_of(count: int, **worker) -> AsyncIterator[tuple[Mesh, list[Node]]]:
    """Nodes that are connected; the first has the model."""
    async with trio.open_nursery() as nursery:
        mesh = Mesh(nursery)
        nodes = [await mesh.add(**worker) for _ in range(count)]
        mesh.give_model(nodes[0])
        yield mesh, nodes
        nursery.cancel_scope.cancel()
