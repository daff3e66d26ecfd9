"""The holder's side: what this node has promised of its memory, to whom, and until when.

The rule of the file: only a node grants its own memory. A grant is a promise until its lease ends or the range is loaded, then
it is a claim, which lasts until it is released.

    offer --> pending --claim--> claimed --release--> gone
                 |                  ^
                 |                  '-- offered again: term, proposer and role change, nothing is loaded
                 '-- lease over, failed, released, or a higher plan of another proposer --> gone

Per model the highest (term, proposer) that was granted is kept, and lower ones are declined. Free memory is what the worker
says, less what was promised and does not lie in the worker yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from protocols import limits
from protocols.errors import Malformed
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Declined, Granted, LayerRange, Offer, Release


@dataclass(frozen=True, slots=True)
class GrantPolicy:
    """What the operator allows. `layers_max` 0 is no cap, and counts every layer held, standbys included."""

    layers_max: int = 0
    refuses: bool = False


@dataclass(slots=True, eq=False)
class Grant:
    """One promise. `lease_ends_s` is None once claimed; `promised_bytes` are those that the worker does not count yet."""

    offer: Offer
    lease_ends_s: float | None
    promised_bytes: int

    @property
    def rank(self) -> tuple[int, PeerId]:
        return self.offer.term, self.offer.proposer

    @property
    def is_claimed(self) -> bool:
        return self.lease_ends_s is None

    def serves(self, model: ModelDigest, held: LayerRange) -> bool:
        return (self.offer.model, self.offer.range) == (model, held)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to an offer. `is_held`: the range is loaded already. The loads of `superseded` are to be stopped."""

    reply: Granted | Declined
    grant: Grant | None = None
    is_held: bool = False
    superseded: tuple[Grant, ...] = ()


@dataclass(slots=True)
class Grants:
    policy: GrantPolicy = field(default_factory=GrantPolicy)
    _grants: list[Grant] = field(default_factory=list)
    _highest: dict[ModelDigest, tuple[int, PeerId]] = field(default_factory=dict)

    def offer(self, offer: Offer, free_bytes: int, now: float) -> Verdict:
        """Grant or decline. Raises `Malformed` for an empty range."""
        if offer.range.layers < 1:
            raise Malformed(f"an offer of the empty range {offer.range}", offer.proposer)
        self.expire(now)
        highest = self._highest.get(offer.model, (0, PeerId("")))
        if (offer.term, offer.proposer) < highest:
            return Verdict(Declined("a newer plan of that model was granted", highest[0]))
        superseded = tuple(grant for grant in self._grants if self._yields(grant, offer))
        rest = [grant for grant in self._grants if grant not in superseded]
        same = next((grant for grant in rest if _is_same(grant.offer, offer)), None)
        if same is not None:
            return self._again(same, offer, superseded)
        declined = self._lacking(offer, rest, free_bytes)
        if declined is not None:
            return Verdict(declined)
        grant = Grant(offer, now + offer.lease_s, offer.bytes_needed)
        self._grants = [*rest, grant]
        self._remember(offer)
        return Verdict(Granted(offer.term), grant, superseded=superseded)

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
        # What the worker does not count of a loaded range is the KV that was promised with it.
        grant.lease_ends_s, grant.promised_bytes = None, max(0, grant.offer.bytes_needed - resident_bytes)
        return replaced

    def restore(self, offer: Offer) -> Grant:
        """A claim of an earlier run of this node, or of a worker that died: promised, and to be loaded again."""
        grant = Grant(offer, None, offer.bytes_needed)
        self._grants.append(grant)
        self._remember(offer)
        return grant

    def unloaded(self) -> None:
        """The worker died: it counts nothing any more of what was claimed."""
        for grant in self._grants:
            grant.promised_bytes = grant.offer.bytes_needed

    def release(self, release: Release, proposer: PeerId) -> tuple[Grant, ...]:
        """What is to be stopped or unloaded: the range's grants of this plan or of lower ones. Idempotent."""
        rank = (release.term, proposer)
        gone = tuple(
            grant
            for grant in self._grants
            if grant.serves(release.model, release.range) and grant.rank <= rank
        )
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

    def term_of(self, model: ModelDigest) -> int:
        """The highest term that was granted for that model."""
        return self._highest.get(model, (0, PeerId("")))[0]

    def layers_left(self) -> int | None:
        """What the operator's cap still allows; None without a cap."""
        if not self.policy.layers_max:
            return None
        return max(0, self.policy.layers_max - sum(grant.offer.range.layers for grant in self._grants))

    def __iter__(self) -> Iterator[Grant]:
        return iter(tuple(self._grants))

    def _yields(self, grant: Grant, offer: Offer) -> bool:
        """A pending grant of another proposer gives way to a higher plan; one's own plans are told apart by releases."""
        is_others = grant.offer.model == offer.model and grant.offer.proposer != offer.proposer
        return is_others and not grant.is_claimed

    def _again(self, grant: Grant, offer: Offer, superseded: tuple[Grant, ...]) -> Verdict:
        if not grant.is_claimed:
            return Verdict(Declined("that range is being loaded already"))
        self._grants = [other for other in self._grants if other not in superseded]
        grant.offer = offer
        self._remember(offer)
        return Verdict(Granted(offer.term), grant, is_held=True, superseded=superseded)

    def _lacking(self, offer: Offer, others: list[Grant], free_bytes: int) -> Declined | None:
        if self.policy.refuses:
            return Declined("its operator lets it hold no layers")
        if len(others) >= limits.STAGES_MAX:
            return Declined(f"it holds {limits.STAGES_MAX} ranges already")
        held = sum(grant.offer.range.layers for grant in others)
        cap = self.policy.layers_max
        if cap and held + offer.range.layers > cap:
            reason = f"its operator allows {cap} layers and it holds {held}"
            return Declined(reason, layers_max=max(0, cap - held))
        left_bytes = self._left(others, free_bytes)
        if offer.bytes_needed > left_bytes:
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


def _is_same(a: Offer, b: Offer) -> bool:
    """Whether one load serves both; the role does not matter."""
    return (a.model, a.range, a.dtype, a.numerics) == (b.model, b.range, b.dtype, b.numerics)
