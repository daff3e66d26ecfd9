"""Who holds what: grants, claims and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from inference.placement.gossiping import CLAIM_WORD_CODEC, key_of
from inference.placement.holding.reloading import RELOAD_WAIT_S
from protocols import limits
from protocols.gossip import Topic
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Claim, LayerRange
from simulations.invariants.bounds import CONVERGED_S, GOSSIP_S, TOGETHER_S
from simulations.invariants.invariant import Breach, always, settled
from simulations.invariants.mesh import Mesh, hears
from simulations.invariants.sight import Sight

Range = tuple[ModelDigest, LayerRange]


@always("S4", "A holder grants plans of one model in rising order of (term, proposer).", every_s=1.0)
def plans_are_granted_in_order(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        for model, rank in sight.ranks.items():
            before = mesh.before(("rank", sight.name, sight.run, model), rank)
            if before is not None and before > rank:
                detail = f"it had granted term {before[0]} of model {model[:8]}, and now {rank[0]}"
                yield Breach((sight.name,), detail)


@always("S4", "Two nodes never make plans of one model under the same term and name.", every_s=1.0)
def plans_do_not_overlap(mesh: Mesh) -> Iterator[Breach]:
    """One proposer's plan of one term has one primary for each layer."""
    holders: defaultdict[tuple[ModelDigest, int, str, int], list[str]] = defaultdict(list)
    for sight in mesh.sights.values():
        for grant in sight.grants:
            offer = grant.offer
            if grant.is_claimed and not grant.is_adopted and not offer.standby:
                for layer in range(offer.range.start, offer.range.end):
                    holders[offer.model, offer.term, offer.proposer, layer].append(sight.name)
    for (model, term, _, layer), names in holders.items():
        if len(names) > 1:
            detail = (
                f"layer {layer} of model {model[:8]} has {len(names)} primaries in the plan of term {term}"
            )
            yield Breach(tuple(sorted(names)), detail)


@always("S4", "Nobody holds more than its memory.", every_s=0.5)
def memory_is_enough(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        free_bytes = sight.node.worker.free_bytes()
        if free_bytes < 0:
            yield Breach((sight.name,), f"it lacks {-free_bytes} bytes")


@always("S4", "What is granted and not loaded has its memory promised, and nothing has more.", every_s=0.5)
def promises_cover_their_ranges(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        loaded = [holding.grant for holding in sight.holdings if holding.is_loaded]
        for grant in sight.grants:
            is_loaded = any(grant is other for other in loaded)
            is_short = not is_loaded and grant.promised_bytes < grant.bytes_needed
            if is_short or grant.promised_bytes > grant.bytes_needed:
                detail = f"layers {grant.offer.range} need {grant.bytes_needed} bytes, {grant.promised_bytes} are promised"
                yield Breach((sight.name,), detail, grant.offer.range, within_s=1.0)


@always("S4", "What is granted for good is held, or on its way to that.", every_s=1.0)
def grants_are_used(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        used = {*sight.coming, *(holding.grant for holding in sight.holdings)}
        for grant in sight.grants:
            if grant.is_claimed and grant not in used:
                detail = f"layers {grant.offer.range} are granted, and nobody loads them"
                yield Breach((sight.name,), detail, grant.offer.range, within_s=3 * RELOAD_WAIT_S)


@always("S4", "What a node claims to hold is in its worker, or lies on its disk and says so.", every_s=1.0)
def claims_are_true(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.sights.values():
        granted = [grant for grant in sight.grants if grant.is_claimed]
        for holding in sight.holdings:
            if not any(holding.grant is grant for grant in granted):
                yield Breach((sight.name,), f"layers {holding.shard.range} are claimed and not granted")


@always("S4", "What a node tells of as held is what it holds.", every_s=0.5)
def nodes_tell_what_they_hold(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.awake:
        told, held = set(sight.told), {key_of(holding.claim) for holding in sight.holdings}
        if told != held:
            detail = (
                f"it tells of {len(told)} ranges and holds {len(held)}, {len(told & held)} of them the same"
            )
            yield Breach((sight.name,), detail, within_s=0.5)


@always(
    "S4",
    "What counts as held was held in the run of its holder that is known of: what an earlier run held counts for nothing.",
    every_s=0.2,
)
def claims_are_of_this_run(mesh: Mesh) -> Iterator[Breach]:
    held: dict[PeerId, set[Range]] = {}
    for sight in mesh.sights.values():
        held[sight.peer] = mesh.first(("held in this run", sight.name, sight.run), set[Range]())
        held[sight.peer].update((holding.shard.model, holding.shard.range) for holding in sight.holdings)
    for sight in mesh.awake:
        for claim in sight.believed:
            of_holder = held.get(claim.holder)
            if of_holder is None or (claim.model, claim.range) in of_holder:
                continue
            holder = mesh.by_peer[claim.holder]
            boot = holder.boot_of(holder.peer)
            # What was held for less than a look was claimed by the same run all the same.
            word = sight.table.find(holder.peer, (Topic.CLAIMS, key_of(claim)))
            body = word.heard.body if word is not None else b""
            is_of_this_run = bool(body) and CLAIM_WORD_CODEC.decode(body).boot == boot
            if sight.boot_of(holder.peer) == boot and not is_of_this_run:
                detail = f"{sight.name} counts on layers {claim.range}, which {holder.name} held before it was restarted"
                yield Breach((sight.name, holder.name), detail, claim.range, within_s=0.4)


@settled("L3", f"Nobody of the core counts on a range of a node that has been down for {TOGETHER_S:.0f} s.")
def claims_of_the_dead_end(mesh: Mesh) -> Iterator[Breach]:
    for sight in mesh.core:
        for holder in dict.fromkeys(claim.holder for claim in sight.believed):
            if holder not in mesh.by_peer:
                detail = f"{sight.name} counts on {mesh.name_of(holder)}, which is down"
                yield Breach((sight.name, mesh.name_of(holder)), detail, holder, TOGETHER_S)


@settled(
    "S4",
    "While nobody is down, every layer is covered by at least one primary, within the time a reload takes.",
)
def layers_have_a_primary(mesh: Mesh) -> Iterator[Breach]:
    if len(mesh.awake) < len(mesh.cluster.nodes) or not all(
        history.has_kept_everything for history in mesh.histories.values()
    ):
        return
    covered: defaultdict[ModelDigest, set[int]] = defaultdict(set)
    for sight in mesh.awake:
        for claim in _claims_of(sight):
            covered[claim.model] |= set() if claim.standby else _layers(claim.range)
    for model, layers in covered.items():
        missing = sorted(set(range(mesh.script.layers)) - layers)
        if missing:
            yield Breach((), f"no primary for layers {missing} of model {model[:8]}", model, CONVERGED_S)


@settled("L3", "Placement comes to rest: once it has had time to converge, nobody's ranges change any more.")
def placement_rests(mesh: Mesh) -> Iterator[Breach]:
    """Ranges that are held for want of anybody else come and go with the sessions that need them."""
    assert mesh.settled_at_s is not None
    if mesh.now < mesh.settled_at_s + CONVERGED_S:
        return
    for sight in mesh.core:
        held = tuple(
            sorted(
                (grant.offer.model, grant.offer.range, grant.offer.term)
                for grant in sight.grants
                if not grant.is_adopted
            )
        )
        before = mesh.before(("held", sight.name, sight.run), held)
        if before is not None and before != held:
            yield Breach((sight.name,), f"it held {len(before)} ranges and holds {len(held)}")


@settled("L3", "Everybody hears of every claim, and of its end, within the time that gossip is given.")
def claims_are_known(mesh: Mesh) -> Iterator[Breach]:
    truth = {sight.peer: frozenset(map(_essence, _claims_of(sight))) for sight in mesh.core}
    for sight in mesh.core:
        believed: defaultdict[str, set[object]] = defaultdict(set)
        for claim in sight.daemon.placement.claims.claims():
            believed[claim.holder].add(_essence(claim))
        for other in mesh.core:
            if believed[other.peer] != truth[other.peer] and hears(other, sight, limits.CLAIM_TTL_S):
                detail = f"{other.name} holds {len(truth[other.peer])} ranges, {sight.name} knows {len(believed[other.peer])}"
                yield Breach((sight.name, other.name), detail, within_s=2 * GOSSIP_S)


def _claims_of(sight: Sight) -> list[Claim]:
    return [holding.claim for holding in sight.holdings]


def _essence(claim: Claim) -> tuple[object, ...]:
    return claim.model, claim.range, claim.standby, claim.term


def _layers(held: LayerRange) -> set[int]:
    return set(range(held.start, held.end))
