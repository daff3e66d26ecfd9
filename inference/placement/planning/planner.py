"""The planner: who gets which layers. Pure, and equal inputs give equal plans.

Its goals, in order: every layer is covered once; KV has room beside the weights; then the strategy, which decides on the chain of
primaries (`chains`); then standbys by policy (`standbys`). Nodes that may not take part are left out first, and those of bad score
while the others suffice. Exact for up to eight nodes that could hold a layer, and a search beyond.

    nodes, --on -> who may -> costs -> chain -> standbys -> reasons
                   refusals

The predicted time per token is the ring of `costs`, without the share by which bad scores are avoided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.placement.planning.chains import choose_chain
from inference.placement.planning.costs import (
    SCORE_MIN,
    SCORED_MIN,
    Chain,
    Costs,
    costs_of,
    expected_layer_ms,
)
from inference.placement.planning.plan import HOP_MS as HOP_MS
from inference.placement.planning.plan import (
    REPLICAS_MAX,
    Goal,
    Link,
    LinkTable,
    ModelSize,
    NodeView,
    Plan,
    PlannedRange,
    PlannedStandby,
    Refusal,
    Strategy,
)
from inference.placement.planning.reasons import explain_range, explain_standbys, explain_unused
from inference.placement.planning.room import Room
from inference.placement.planning.shortage import in_mib as in_mib
from inference.placement.planning.shortage import too_big
from inference.placement.planning.standbys import Spare
from protocols.errors import UserError
from protocols.ids import PeerId
from protocols.placement import Capacity, LayerRange


def make_plan(
    size: ModelSize,
    nodes: Mapping[PeerId, Capacity | NodeView],
    entry: PeerId,
    goal: Goal = Goal(),  # noqa: B008  (frozen)
    links: LinkTable | None = None,
    *,
    rtt_ms: float = 0.0,
) -> Plan:
    """Every layer covered once. Raises `UserError`, with what is missing, if the nodes have no room for the model.

    `rtt_ms` is of all links if there is no table of them.
    """
    if not 1 <= goal.replicas <= REPLICAS_MAX:
        raise UserError(
            f"{goal.replicas} replicas of a range are not possible: ask for 1 to {REPLICAS_MAX}, the primary included."
        )
    if goal.rows_reserved is not None:
        size = size.reserving(goal.rows_reserved)
    links = links or LinkTable(default=Link(HOP_MS + rtt_ms / 2))
    views = {peer: _view(nodes[peer]) for peer in sorted(nodes)}
    able = _able(size, views, goal)
    peers = able.peers_from(entry)
    costs = costs_of(able.room, peers, entry, links)
    scores = [able.room.nodes[peer].score for peer in peers]
    chain = choose_chain(costs.scored(scores), goal.strategy)
    if chain is None:
        raise too_big(able.room, is_subset=bool(goal.only))
    order = [peers[node] for node in chain.order]
    straight = Chain(tuple(range(len(order))), chain.counts)
    return _plan(able, order, straight, costs.along(chain.order), entry, goal, links)


def _view(node: Capacity | NodeView) -> NodeView:
    return NodeView(node) if isinstance(node, Capacity) else node


# Who may take part ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Able:
    """`room` is of all nodes that may hold something, `peers` of those that could hold a range of their own."""

    room: Room
    peers: tuple[PeerId, ...]
    refusals: tuple[Refusal, ...]

    def peers_from(self, entry: PeerId) -> tuple[PeerId, ...]:
        """The entry first, because it sees the prompt anyway; the others by their ids."""
        return tuple(sorted(self.peers, key=lambda peer: (peer != entry, peer)))


def _able(size: ModelSize, views: Mapping[PeerId, NodeView], goal: Goal) -> _Able:
    """Raises `UserError` if even all that may can't hold the model."""
    refusals = {
        peer: view.refused or "not named with --on"
        for peer, view in views.items()
        if view.refused or (goal.only and peer not in goal.only)
    }
    everybody = Room(size, {peer: view for peer, view in views.items() if peer not in refusals})
    if not everybody.suffices(everybody.nodes):
        raise too_big(everybody, is_subset=bool(goal.only))
    avoided = _avoided(everybody)
    room = Room(size, {peer: view for peer, view in everybody.nodes.items() if peer not in avoided})
    roomy = [peer for peer in room.nodes if room.cap(peer) > 0]
    refusals |= avoided
    refusals |= {peer: _no_room(room, peer) for peer in room.nodes if peer not in roomy}
    if goal.strategy is Strategy.CROSS_NODE_BALANCED:
        roomy = _quickest(room, roomy)
    return _Able(room, tuple(roomy), tuple(Refusal(peer, refusals[peer]) for peer in sorted(refusals)))


def _avoided(room: Room) -> dict[PeerId, str]:
    """Nodes of bad score, but for the best of them that it needs to hold the model."""
    bad = sorted(
        (peer for peer, view in room.nodes.items() if view.score < SCORE_MIN),
        key=lambda peer: (room.nodes[peer].score, peer),
    )
    good = set(room.nodes) - set(bad)
    while bad and not room.suffices(good):
        good.add(bad.pop())
    return {
        peer: f"score {view.score:.2f} below {SCORE_MIN}"
        + (f": {view.score_reason}" if view.score_reason else "")
        for peer in bad
        for view in (room.nodes[peer],)
    }


def _no_room(room: Room, peer: PeerId) -> str:
    return "no room for one layer" if not room.in_memory(peer) else "no room for one layer on its disk"


def _quickest(room: Room, roomy: Sequence[PeerId]) -> list[PeerId]:
    """All, or of more nodes than layers the quickest that can hold the model between them."""
    layers = room.size.layers
    if len(roomy) <= layers:
        return list(roomy)
    by_pace = sorted(
        roomy,
        key=lambda peer: (
            expected_layer_ms(room.nodes[peer]) / max(room.nodes[peer].score, SCORED_MIN),
            peer,
        ),
    )
    chosen = by_pace[:layers]
    for ends in ({"is_first": True}, {"is_last": True}):
        able = [peer for peer in by_pace if room.cap(peer, **ends) > 0]
        if able and not any(peer in chosen for peer in able):
            chosen[-1] = able[0]
    return chosen if room.suffices(chosen) else list(roomy)


# The plan ------------------------------------------------------------------------------------------------------------


def _plan(
    able: _Able,
    order: Sequence[PeerId],
    chain: Chain,
    costs: Costs,
    entry: PeerId,
    goal: Goal,
    links: LinkTable,
) -> Plan:
    """`chain` and `costs` count the nodes along `order`."""
    primaries = tuple(zip(order, _cut(chain.counts), strict=True))
    spare = Spare(able.room, primaries, entry, links)
    standbys = spare.choose(goal)
    rescuable = [peer == entry or spare.rescues(entry, held) for peer, held in primaries]
    ranges = tuple(
        _range(able.room, costs, place, peer, held, standbys[place])
        for place, (peer, held) in enumerate(primaries)
    )
    slowest_ms = costs.slowest_ms(chain)
    return Plan(
        ranges,
        costs.token_ms(chain),
        explain_standbys(primaries, standbys, entry, spare, goal),
        able.refusals + explain_unused(able.room, able.peers, ranges),
        return_ms=float(costs.leave_ms[-1]),
        tokens_per_s=1e3 / slowest_ms if slowest_ms else 0.0,
        entry_serves_if_lost=set(order) != {entry} and all(rescuable),
    )


def _cut(counts: Sequence[int]) -> list[LayerRange]:
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    return [LayerRange(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _range(
    room: Room,
    costs: Costs,
    place: int,
    peer: PeerId,
    held: LayerRange,
    standbys: tuple[PlannedStandby, ...],
) -> PlannedRange:
    hop_ms = float(costs.hop_ms[place - 1, place] if place else costs.enter_ms[0])
    layer_ms = float(costs.layer_ms[place])
    reason = explain_range(room, peer, held, layer_ms, hop_ms, standbys)
    return PlannedRange(
        held, peer, room.size_at(peer).bytes_of(held), held.layers * layer_ms, hop_ms, reason, standbys
    )
