"""The table of claims: who really holds what, as each holder last told it.

The rule of the file: what a holder tells replaces all it told before, and nobody tells for another. A peer that went down counts
again only once it has told anew: it may have been restarted and be without the shards that it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from protocols import limits
from protocols.errors import Dishonest, Malformed, NotFound, UserError
from protocols.ids import ModelDigest, PeerId, shortened
from protocols.placement import Claim, Claims, LayerRange, ModelNote

PREFIX_DIGITS_MIN: Final = 4  # of a digest, to name a model by


@dataclass(slots=True)
class ClaimTable:
    """At most `MEMBERS_MAX` holders; each told of at most `STAGES_MAX` claims, which the wire already bounds."""

    _told: dict[PeerId, Claims] = field(default_factory=dict)
    _down: set[PeerId] = field(default_factory=set)
    _terms: dict[ModelDigest, int] = field(default_factory=dict)  # of at most MODELS_MAX models

    def tell(self, holder: PeerId, told: Claims) -> bool:
        """Replace what `holder` told; True if that changed anything. Hearing from a peer means that it is up.

        Raises `Dishonest` for claims in another's name, `Malformed` for empty ranges or the same range twice.
        """
        keys = {(claim.model, claim.range) for claim in told.claims}
        if any(claim.holder != holder for claim in told.claims):
            raise Dishonest("claims in the name of another peer", holder)
        if len(keys) < len(told.claims) or any(claim.range.layers < 1 for claim in told.claims):
            raise Malformed("claims of an empty range, or of one range twice", holder)
        self._make_room(holder)
        was_up, before = holder not in self._down, self._told.get(holder)
        self._told[holder] = told
        self._down.discard(holder)
        self._note_terms(told.claims)
        return before != told or not was_up

    def down(self, peer: PeerId) -> None:
        """Out of every answer in the same call, until it tells anew."""
        if peer in self._told:
            self._down.add(peer)

    def claims(self, model: ModelDigest | None = None) -> tuple[Claim, ...]:
        """All that live peers hold, of one model or of any, in a stable order."""
        found = [claim for told in self._live() for claim in told.claims if model in (None, claim.model)]
        return tuple(sorted(found, key=lambda claim: (claim.model, claim.range, claim.standby, claim.holder)))

    def serving(self, model: ModelDigest, layers: LayerRange) -> tuple[Claim, ...]:
        """Who of the live holds all of these layers in one range: primaries first, then by their range and holder."""
        found = [
            claim
            for peer, told in self._told.items()
            if peer not in self._down
            for claim in told.claims
            if claim.model == model and claim.range.start <= layers.start and claim.range.end >= layers.end
        ]
        return tuple(sorted(found, key=lambda claim: (claim.standby, claim.range, claim.holder)))

    def lost(self, model: ModelDigest) -> tuple[Claim, ...]:
        """What peers that are down held of it when they were last heard of."""
        gone = (self._told[peer] for peer in sorted(self._down) if peer in self._told)
        return tuple(claim for told in gone for claim in told.claims if claim.model == model)

    def term_of(self, model: ModelDigest) -> int:
        """The highest term ever heard of for that model, 0 if there was none: the next plan's has to be higher."""
        return self._terms.get(model, 0)

    def keepers(self, model: ModelDigest) -> tuple[PeerId, ...]:
        """Live peers that keep its manifest and small files, and some or all of its tensors."""
        return tuple(
            peer
            for peer in sorted(self._told)
            if peer not in self._down and any(note.digest == model for note in self._told[peer].models)
        )

    def models(self) -> tuple[ModelNote, ...]:
        """Every model that a live peer keeps, by name. Of several names for one digest the first told counts."""
        notes: dict[ModelDigest, ModelNote] = {}
        for told in self._live():
            for note in told.models:
                notes.setdefault(note.digest, note)
        return tuple(sorted(notes.values(), key=lambda note: (note.name, note.digest)))

    def note_of(self, model: ModelDigest) -> ModelNote | None:
        return next((note for note in self.models() if note.digest == model), None)

    def lookup(self, text: str) -> ModelNote:
        """The model of that name or unique digest prefix. Raises `NotFound`, or `UserError` if there are several."""
        notes = self.models()
        named = [note for note in notes if note.name == text]
        if not named and len(text) >= PREFIX_DIGITS_MIN:
            named = [note for note in notes if note.digest.startswith(text.lower())]
        if not named:
            raise NotFound(
                f"No model is called '{text}' here: 'weft models' lists them, 'weft offer FOLDER' adds one."
            )
        if len(named) > 1:
            digests = ", ".join(shortened(note.digest, 12) for note in named)
            raise UserError(f"'{text}' means several models: name one by its digest ({digests}).")
        return named[0]

    def _live(self) -> Iterator[Claims]:
        # By peer id, so that answers do not depend on who told first.
        return (self._told[peer] for peer in sorted(self._told) if peer not in self._down)

    def _note_terms(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self._terms[claim.model] = max(claim.term, self._terms.pop(claim.model, 0))
            if len(self._terms) > limits.MODELS_MAX:
                del self._terms[next(iter(self._terms))]

    def _make_room(self, holder: PeerId) -> None:
        if holder in self._told or len(self._told) < limits.MEMBERS_MAX:
            return
        gone = min(self._down, default=None)
        if gone is None:
            raise Malformed(f"claims of more than {limits.MEMBERS_MAX} members", holder)
        self._down.discard(gone)
        del self._told[gone]


def term_of(claims: Iterable[Claim]) -> int:
    """The highest term among them, 0 if there are none."""
    return max((claim.term for claim in claims), default=0)
