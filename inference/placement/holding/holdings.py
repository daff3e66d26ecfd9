"""What this node holds: ranges, loaded or mapped, with their claims, and the file that brings them back after a restart.

The file keeps the offers that were claimed, because an offer says all that is needed to load its range again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Protocol

import msgspec

from inference.model.config import ModelConfig
from inference.placement.holding.grants import Grant
from protocols import limits
from protocols.errors import LocalFault, Malformed
from protocols.ids import ModelDigest, PeerId
from protocols.placement import Claim, LayerRange, ModelNote, Offer, StandbyKind
from protocols.seams import ShardId, ShardLoaded, TensorFile

HOLDINGS_FILE: Final = "claims.msgpack"


class Weights(Protocol):
    """The tensors and small files of models: what lies here already, else from the peers that have it, verified.

    Both raise `Dishonest` if what arrived has another hash and nobody else has it, `Unavailable` if nobody has it, and
    `LocalFault` if it can't be kept.
    """

    async def config_of(self, model: ModelDigest, from_peers: tuple[PeerId, ...]) -> bytes:
        """The model's config.json. From then on its manifest and all its small files are kept here."""

    async def ensure(
        self,
        model: ModelDigest,
        tensor_names: tuple[str, ...],
        from_peers: tuple[PeerId, ...],
        on_progress: Callable[[int, int], None],
    ) -> tuple[TensorFile, ...]:
        """Files with these tensors, in their order. `on_progress(done_bytes, total_bytes)` while they are fetched."""

    async def tokenizer_of(self, model: ModelDigest) -> str:
        """The path of its tokenizer.json, which `config_of` has made sure of; empty if the model has none."""

    async def free_disk_bytes(self) -> int | None:
        """Room for more tensors; None: unknown."""

    async def warm(
        self, model: ModelDigest, tensor_names: tuple[str, ...], on_progress: Callable[[int, int], None]
    ) -> None:
        """Read these tensors, which `ensure` has made sure of, so that they lie in the page cache; none of it is kept here."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A range in the worker, or (`loaded` None) mapped, and what is told of it."""

    grant: Grant
    shard: ShardId
    config: ModelConfig
    loaded: ShardLoaded | None
    claim: Claim

    @property
    def is_loaded(self) -> bool:
        return self.loaded is not None

    @property
    def resident_bytes(self) -> int:
        return self.loaded.resident_bytes if self.loaded else 0

    @property
    def is_as_granted(self) -> bool:
        """A range may be loading again, or for a session that needs it."""
        return self.is_loaded is not self.grant.is_mapped

    def mapped_again(self) -> Holding:
        """The same range without its shard."""
        claim = msgspec.structs.replace(self.claim, kind=StandbyKind.MAPPED)
        return replace(self, loaded=None, claim=claim)

    def offered_again(self) -> Holding:
        """The same shard under the term and in the role of its grant's present offer."""
        offer = self.grant.offer
        return replace(
            self, claim=msgspec.structs.replace(self.claim, term=offer.term, standby=offer.standby)
        )


def make_claim(
    holder: PeerId, offer: Offer, shard: ShardId, loaded: ShardLoaded | None, layer_ms: float
) -> Claim:
    """`exact` is claimed only where the self-test of it has passed; of what is not loaded that is not known yet."""
    return Claim(
        holder=holder,
        model=offer.model,
        range=offer.range,
        standby=offer.standby,
        dtype=offer.dtype,
        numerics=offer.numerics if loaded is None or loaded.is_exact else "fast",
        numerics_class=loaded.numerics_class if loaded else "",
        layer_ms=layer_ms,
        term=offer.term,
        version=shard.version,
        kind=StandbyKind.HOT if loaded else StandbyKind.MAPPED,
    )


def told_of(holding: Holding, others: Iterable[Holding]) -> Claim:
    """The claim as others hear it: a mapped range will compute like whatever this worker has of the same model."""
    claim, offer = holding.claim, holding.grant.offer
    if holding.is_loaded:
        return claim
    for other in others:
        held = other.grant.offer
        if other.is_loaded and (held.model, held.dtype, held.numerics) == (
            offer.model,
            offer.dtype,
            offer.numerics,
        ):
            like = other.claim
            return msgspec.structs.replace(claim, numerics=like.numerics, numerics_class=like.numerics_class)
    return claim


def spare_ones(
    holdings: Mapping[tuple[ModelDigest, LayerRange], Holding], is_elsewhere: Callable[[Claim], bool]
) -> list[tuple[tuple[ModelDigest, LayerRange], Holding]]:
    """Loaded standbys, which can wait on disk as well, and what was loaded for want of a holder that serves again.

    Those that take most memory come first.
    """
    spare = [
        (key, held)
        for key, held in holdings.items()
        if held.is_loaded
        and (is_elsewhere(held.claim) if held.grant.is_temporary else held.grant.offer.standby)
    ]
    return sorted(spare, key=lambda each: (-each[1].resident_bytes, each[0]))


def check_offer(offer: Offer, config: ModelConfig) -> None:
    """Raises `Malformed`, blaming the proposer, for a range the model lacks or that takes more than was asked for."""
    if offer.range.end > config.layers:
        raise Malformed(f"layers {offer.range} of a model of {config.layers}", offer.proposer)
    weights_bytes = config.range_bytes(offer.range, offer.dtype)
    if weights_bytes > offer.bytes_needed:
        raise Malformed(
            f"layers {offer.range} take {weights_bytes} bytes, and {offer.bytes_needed} were asked for",
            offer.proposer,
        )


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """The contents of the file."""

    offers: Annotated[tuple[Offer, ...], msgspec.Meta(max_length=limits.STAGES_MAX)] = ()
    notes: Annotated[tuple[ModelNote, ...], msgspec.Meta(max_length=limits.MODELS_MAX)] = ()


_decoder = msgspec.msgpack.Decoder(Kept)


def encode_kept(kept: Kept) -> bytes:
    return msgspec.msgpack.encode(kept)


def decode_kept(data: bytes | None) -> Kept:
    """Nothing if there is no file. Raises `LocalFault` for a damaged one, since writes are atomic and it can't be."""
    if data is None:
        return Kept()
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise LocalFault(
            f"{HOLDINGS_FILE} is damaged ({error}): delete it and offer the models again"
        ) from error
