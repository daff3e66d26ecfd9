"""What a node would plan of what it has heard: the product's planner over the health of those whom it holds for alive."""

from __future__ import annotations

from typing import Final

from inference.placement.planning.plan import ModelSize, NodeView, Plan
from inference.placement.planning.planner import make_plan
from mesh.liveness.detector import State
from protocols.errors import UserError
from protocols.gossip import Topic
from protocols.health import HEALTH_CODEC, HealthDigest
from protocols.ids import PeerId
from protocols.placement import Capacity
from simulations.world.node import WorldNode

LAYERS: Final = 12
LAYER_BYTES: Final = 64 << 20


def plan_of(node: WorldNode, entry: PeerId) -> Plan | None:
    """As if it were asked for by a client of `entry`; None if what it has heard of has no room for the model."""
    living = {peer for peer, state in node.suspicion.states().items() if state is State.ALIVE} | {node.peer}
    told = {heard.author: HEALTH_CODEC.decode(heard.body) for heard in node.items(Topic.HEALTH)}
    views = {peer: _view(digest) for peer, digest in told.items() if peer in living}
    try:
        return make_plan(ModelSize("world", LAYERS, LAYER_BYTES), views, entry)
    except UserError:
        return None


def _view(digest: HealthDigest) -> NodeView:
    capacity = Capacity(layer_ms=digest.ranges[0].layer_ms, free_bytes=digest.memory_free_bytes)
    return NodeView(capacity, load=digest.load)
