"""The holder's side: what this node has promised of its memory, to whom, and until when.

The rule of the file: only a node grants its own memory. A grant is a promise until its lease ends or the range is loaded, then
it is a claim, which lasts until it is released.

    offer --> pending --claim--> claimed --release--> gone
                 |                  ^
                 |                  '-- offered again: term, proposer and role change, nothing is loaded
                 '-- lease over, failed, released, or a higher plan of another proposer --> gone

Per model the highest (term, proposer) that was granted is kept, and lower ones are declined. Free memory is what the worker
says, less what was promised and does not lie in the worker yet. A mapped range is promised no memory before it is promoted, and
an old range counts until its claim is released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec import structs

from inference.model.precision import kv_head_bytes
from protocols import limits
from protocols.errors import Malformed
from protocols.ids import ModelDigest, PeerId
from protocols.placement import (
    Capacity,
    Declined,
    Granted,
    LayerRange,
    LayerShape,
    Offer,
    Release,
    StandbyKind,
)

EARLIER_MAX: Final = 4  # plans that have one range; more than a few are of long ago


@dataclass(frozen=True, slots=True)
class GrantPolicy:
    """What the operator allows. `layers_max` 0 is no cap, and counts every layer held, standbys included. Keys and values are kept
    in `kv`, one of `KV_KINDS`."""

    layers_max: int = 0
    refuses: bool = False
    kv: str = "model"

    def kv_row_bytes(self, shape: LayerShape) -> int:
        """What a row takes in such a layer, where that is not what the dtype of the model says; else 0."""
        head_bytes = kv_head_bytes(shape.head_dim, shape.dtype, self.kv)
        return 2 * shape.kv_heads * head_bytes if self.kv != "model" else 0


@dataclass(slots=True, eq=False)
class Grant:
    """One promise. `lease_ends_s` is None once claimed; `promised_bytes` are those that the worker does not count yet.

    `is_promoted`: a mapped range that is loaded, or about to be, because a session needs it. `is_adopted`: held for want of
    anybody else, and by no plan. `earlier` are the offers of other plans that have the same range, the newest last: if the plan
    of `offer` fails, the range is still theirs.
    """

    offer: Offer
    lease_ends_s: float | None
    promised_bytes: int
    is_promoted: bool = False
    is_adopted: bool = False
    earlier: tuple[Offer, ...] = ()

    @property
    def rank(self) -> tuple[int, PeerId]:
        return self.offer.term, self.offer.proposer

    @property
    def is_claimed(self) -> bool:
        return self.lease_ends_s is None

    @property
    def is_kept(self) -> bool:
        """Over a restart: it was claimed, for a plan."""
        return self.is_claimed and not self.is_adopted

    @property
    def is_mapped(self) -> bool:
        """Whether its weights are to lie on disk alone, for now."""
        return self.offer.kind is StandbyKind.MAPPED and not self.is_promoted

    def move_to_disk(self) -> None:
        """A standby that this node has no memory for any more: from now on it is mapped."""
        self.offer = structs.replace(self.offer, kind=StandbyKind.MAPPED)

    @property
    def bytes_needed(self) -> int:
        return 0 if self.is_mapped else self.offer.bytes_needed

    @property
    def is_temporary(self) -> bool:
        """Loaded until somebody whose range it is serves again."""
        return self.is_adopted or self.is_promoted

    def leave(self, rank: tuple[int, PeerId]) -> bool:
        """The plan of that rank has failed: whether the range is in another one still."""
        if self.rank != rank:
            self.earlier = tuple(each for each in self.earlier if (each.term, each.proposer) != rank)
            return True
        if not self.earlier:
            return False
        *before, self.offer = self.earlier
        self.earlier = tuple(before)
        self.is_promoted = self.is_promoted and self.offer.kind is StandbyKind.MAPPED
        return True

    @property
    def form(self) -> tuple[str, str, bool]:
        """What lies in the worker or on disk for it; another form is loaded or mapped anew."""
        return self.offer.dtype, self.offer.numerics, self.is_mapped

    def serves(self, model: ModelDigest, held: LayerRange) -> bool:
        return (self.offer.model, self.offer.range) == (model, held)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to an offer. `is_held`: the range is loaded already. The loads of `superseded` are to be stopped."""

    reply: Granted | Declined
    grant: Grant | None = None
    is_held: bool = False
    superseded: tuple[Grant, ...] = ()


IsReady = Callable[[Grant], bool]


@dataclass(slots=True)
class Grants:
    policy: GrantPolicy = field(default_factory=GrantPolicy)
    _grants: list[Grant] = field(default_factory=list)
    _highest: dict[ModelDigest, tuple[int, PeerId]] = field(default_factory=dict)

    def offer(self, offer: Offer, free_bytes: int, now: float, is_ready: IsReady) -> Verdict:
        """Grant or decline, which changes nothing. `is_ready` says whether a claimed range lies as it was granted: it may be loading
        again. Raises `Malformed` for an empty range, or for a kind that a node can't hold."""
        if offer.range.layers < 1:
            raise Malformed(f"an offer of the empty range {offer.range}", offer.proposer)
        if offer.kind is StandbyKind.COLD or (offer.kind is StandbyKind.MAPPED and not offer.standby):
            raise Malformed(f"an offer to hold layers {offer.range} {offer.kind.value}", offer.proposer)
        self.expire(now)
        highest = self.highest(offer.model)
        if (offer.term, offer.proposer) < highest:
            rival = self.pending_proposer(offer.model, highest)
            return Verdict(Declined("a newer plan of that model was granted", highest[0], rival=rival))
        superseded = tuple(grant for grant in self._grants if self._yields(grant, offer))
        rest = [grant for grant in self._grants if grant not in superseded]
        same = next((grant for grant in rest if _is_same(grant, offer)), None)
        if same is not None:
            if not same.is_claimed:
                return Verdict(Declined("that range is being loaded already"))
            if not is_ready(same):
                return Verdict(Declined("it loads that range again, or for a session that needs it"))
            return self._again(same, offer, superseded)
        declined = self._lacking(offer, rest, free_bytes)
        if declined is not None:
            return Verdict(declined)
        grant = Grant(offer, now + offer.lease_s, 0)
        grant.promised_bytes = grant.bytes_needed
        self._grants = [*rest, grant]
        self._remember(offer)
        return Verdict(Granted(offer.term), grant, superseded=superseded)

    def adopt(self, offer: Offer, free_bytes: int, now: float) -> Grant | Declined:
        """Of one's own accord, for a range that nobody else holds any more; outside of any plan, so no term is remembered."""
        self.expire(now)
        declined = self._lacking(offer, self._grants, free_bytes)
        if declined is not None:
            return declined
        grant = Grant(offer, None, offer.bytes_needed, is_adopted=True)
        self._grants.append(grant)
        return grant

    def promote(self, grant: Grant, free_bytes: int, now: float) -> Declined | None:
        """Promise a mapped range its memory, or say why not."""
        assert grant in self._grants
        self.expire(now)
        left_bytes = self._left(self._grants, free_bytes)
        if grant.offer.bytes_needed > left_bytes:
            return Declined(f"{grant.offer.bytes_needed} bytes do not fit into {left_bytes}")
        grant.is_promoted, grant.promised_bytes = True, grant.offer.bytes_needed
        return None

    def demote(self, grant: Grant) -> None:
        """The promotion failed: the range is as mapped as before."""
        grant.is_promoted = False
        grant.promised_bytes = grant.bytes_needed

    def claim(self, grant: Grant, resident_bytes: int, now: float) -> tuple[Grant, ...] | None:
        """The range is loaded: earlier grants that it replaces, or None if the grant is gone and the load in vain."""
        self.expire(now)
        if grant not in self._grants:
            return None
        replaced = tuple(
            other
            for other in self._grants
            if other is not grant and other.serves(grant.offer.model, grant.offer.range)
        )
        self._grants = [other for other in self._grants if other not in replaced]
        # A plan that fails leaves what it replaced by another form of the same range to the plan before.
        earlier = [each for other in replaced if other.is_kept for each in (*other.earlier, other.offer)]
        grant.earlier = tuple(earlier[-EARLIER_MAX:])
        # What the worker does not count of a loaded range is the KV that was promised with it.
        grant.lease_ends_s, grant.promised_bytes = None, max(0, grant.bytes_needed - resident_bytes)
        return replaced

    def restore(self, offer: Offer) -> Grant:
        """A claim of an earlier run of this node, or of a worker that died: promised, and to be loaded again."""
        grant = Grant(offer, None, 0)
        grant.promised_bytes = grant.bytes_needed
        self._grants.append(grant)
        self._remember(offer)
        return grant

    def unloaded(self) -> None:
        """The worker died: it counts nothing any more of what was claimed."""
        for grant in self._grants:
            self.demote(grant)

    def release(self, release: Release, proposer: PeerId) -> tuple[Grant, ...]:
        """What is to be stopped or unloaded: the range's grants of this plan, and unless it is exact, of lower ones. Idempotent."""
        rank = (release.term, proposer)
        mine = [grant for grant in self._grants if grant.serves(release.model, release.range)]
        if release.exact:
            gone = tuple(grant for grant in mine if not grant.leave(rank))
        else:
            gone = tuple(grant for grant in mine if grant.rank <= rank)
        for grant in gone:
            self.drop(grant)
        return gone

    def drop(self, grant: Grant) -> None:
        """Idempotent."""
        if grant in self._grants:
            self._grants.remove(grant)

    def expire(self, now: float) -> tuple[Grant, ...]:
        """Frees the grants whose lease is over."""
        over = tuple(
            grant for grant in self._grants if grant.lease_ends_s is not None and grant.lease_ends_s <= now
        )
        for grant in over:
            self.drop(grant)
        return over

    def available_bytes(self, free_bytes: int, now: float) -> int:
        """What may still be granted, of the bytes that the worker says are free."""
        self.expire(now)
        return 0 if self.policy.refuses else self._left(self._grants, free_bytes)

    def capacity(
        self, model: ModelDigest, layer_ms: float, free_bytes: int, has_weights: bool, now: float
    ) -> Capacity:
        """The answer to a survey for that model, of the bytes that the worker says are free."""
        available_bytes = self.available_bytes(free_bytes, now)
        mine = [grant for grant in self._grants if grant.offer.model == model]
        # On the wire a cap of 0 is none: what is held of the model itself counts as free under the cap.
        layers_max = self.policy.layers_max
        others = sum(grant.offer.range.layers for grant in self._grants if grant not in mine)
        if self.policy.refuses or (layers_max and layers_max <= others):
            return Capacity(layer_ms, 0, 0, has_weights)
        loaded = [grant for grant in mine if grant.is_claimed and not grant.is_mapped]
        return Capacity(
            layer_ms,
            available_bytes,
            layers_max - others if layers_max else 0,
            has_weights,
            tuple(sorted(grant.offer.range for grant in loaded)),
            sum(grant.offer.bytes_needed for grant in loaded),
            sum(grant.offer.range.layers for grant in mine),
        )

    def highest(self, model: ModelDigest) -> tuple[int, PeerId]:
        """The highest (term, proposer) that was granted for that model."""
        return self._highest.get(model, (0, PeerId("")))

    def pending_proposer(self, model: ModelDigest, rank: tuple[int, PeerId]) -> PeerId | None:
        """Who proposed the plan of that rank, if it is still under way here."""
        pending = (grant for grant in self._grants if grant.offer.model == model and not grant.is_claimed)
        return rank[1] if any(grant.rank == rank for grant in pending) else None

    def __iter__(self) -> Iterator[Grant]:
        return iter(tuple(self._grants))

    def _yields(self, grant: Grant, offer: Offer) -> bool:
        """A pending grant of another proposer gives way to a higher plan; one's own plans are told apart by releases."""
        is_others = grant.offer.model == offer.model and grant.offer.proposer != offer.proposer
        return is_others and not grant.is_claimed

    def _again(self, grant: Grant, offer: Offer, superseded: tuple[Grant, ...]) -> Verdict:
        self._grants = [other for other in self._grants if other not in superseded]
        grant.earlier = (*grant.earlier, grant.offer)[-EARLIER_MAX:]
        grant.offer, grant.is_adopted = offer, False
        self._remember(offer)
        return Verdict(Granted(offer.term), grant, is_held=True, superseded=superseded)

    def _lacking(self, offer: Offer, others: list[Grant], free_bytes: int) -> Declined | None:
        if self.policy.refuses:
            return Declined("its operator lets it hold no layers")
        if len(others) >= limits.STAGES_MAX:
            return Declined(f"it holds {limits.STAGES_MAX} ranges already")
        # The same range in another form is replaced, not added.
        held = sum(grant.offer.range.layers for grant in others if not grant.serves(offer.model, offer.range))
        cap = self.policy.layers_max
        if cap and held + offer.range.layers > cap:
            reason = f"its operator allows {cap} layers and it holds {held}"
            return Declined(reason, layers_max=max(0, cap - held))
        left_bytes = self._left(others, free_bytes)
        if offer.kind is not StandbyKind.MAPPED and offer.bytes_needed > left_bytes:
            fitting = offer.range.layers * left_bytes // offer.bytes_needed
            return Declined(f"{offer.bytes_needed} bytes do not fit into {left_bytes}", layers_max=fitting)
        return None

    def _left(self, grants: list[Grant], free_bytes: int) -> int:
        return max(0, free_bytes - sum(grant.promised_bytes for grant in grants))

    def _remember(self, offer: Offer) -> None:
        rank = (offer.term, offer.proposer)
        self._highest[offer.model] = max(rank, self._highest.pop(offer.model, rank))
        if len(self._highest) > limits.MODELS_MAX:
            held = {grant.offer.model for grant in self._grants}
            oldest = next((model for model in self._highest if model not in held), offer.model)
            del self._highest[oldest]


def _is_same(grant: Grant, offer: Offer) -> bool:
    """Whether what is held serves the offer as it is; the role does not matter."""
    held = grant.offer
    return (held.model, held.range, held.dtype, held.numerics, grant.is_mapped) == (
        offer.model,
        offer.range,
        offer.dtype,
        offer.numerics,
        offer.kind is StandbyKind.MAPPED,
    )
