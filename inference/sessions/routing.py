"""Routing: a chain of claims from the first layer of a model to the last, and a substitute for a lost link.

The rule of the file: shortest path over layer boundaries. A claim is an edge from its first layer to its end, which costs its
layers times their measured time, and a hop for every change of peer on the way from the entry along the chain and back, so
that the entry's own claims cost none. A standby is taken only where no chain of primaries exists, and of standbys a mapped one,
which has to be loaded first, only where there is no chain of hot ones. All links have one dtype, and
one class of numerics if any such chain exists: across classes a replay can't give the same bits.

What a peer costs is divided by its score, in 0..1, so that one that often fails has to be several times quicker to be taken. A
score of 0 means that it computed wrongly: it is in a chain only if there is none without it, of whatever arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from inference.placement.planning.planner import HOP_MS
from protocols.errors import NoRoute
from protocols.ids import ModelDigest, PeerId, shortened
from protocols.limits import STAGES_MAX
from protocols.placement import Claim, LayerRange, StandbyKind

Cost = tuple[int, float]  # standbys used, by weight, then ms per token over the score: compared in this order
Score = Callable[[PeerId], float]

_WEIGHTS: Final = {
    StandbyKind.HOT: 1,
    StandbyKind.MAPPED: STAGES_MAX + 1,
    StandbyKind.COLD: (STAGES_MAX + 1) ** 2,
}
"""One of a kind outweighs a whole chain of the kinds before it."""

SCORE_MIN: Final = 0.05  # a peer is never dearer than twenty of the same that never failed
_NOTHING: Final[Cost] = (0, 0.0)


def unscored(_peer: PeerId) -> float:
    """Nobody has anything against anybody."""
    return 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """`stages` in the order of the layers; `token_ms` is predicted for one token of one stream."""

    stages: tuple[Claim, ...]
    token_ms: float

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(claim.holder for claim in self.stages)

    @property
    def is_uniform(self) -> bool:
        """Whether all stages compute with the same arithmetic."""
        return len({(claim.numerics, claim.numerics_class) for claim in self.stages}) == 1


@dataclass(frozen=True, slots=True)
class _Path:
    cost: Cost
    token_ms: float
    stages: tuple[Claim, ...]

    @property
    def order(self) -> tuple[Cost, tuple[PeerId, ...]]:
        """Ties go by peer id, so that equal tables give equal routes."""
        return self.cost, tuple(claim.holder for claim in self.stages)


def find_route(
    claims: Iterable[Claim],
    model: ModelDigest,
    layers: int,
    entry: PeerId,
    exclude: Collection[PeerId] = (),
    score: Score = unscored,
) -> Route:
    """The best chain without the excluded peers. Raises `NoRoute`, which names the layers that nobody holds."""
    usable = [claim for claim in claims if claim.model == model and claim.holder not in exclude]
    scores = {claim.holder: score(claim.holder) for claim in usable}
    trusted = [claim for claim in usable if scores[claim.holder]]
    for considered in (trusted, usable) if len(trusted) < len(usable) else (usable,):
        uniform = _groups(considered, lambda claim: (claim.dtype, claim.numerics, claim.numerics_class))
        mixed = _groups(considered, lambda claim: (claim.dtype,))
        for groups in (uniform, mixed):
            paths = [path for group in groups if (path := _shortest(group, layers, entry, scores))]
            if paths:
                best = min(paths, key=lambda path: path.order)
                return Route(best.stages, best.token_ms)
    raise NoRoute(_what_is_missing(usable, model, layers))


def find_replacement(
    claims: Iterable[Claim], lost: Claim, exclude: Collection[PeerId] = (), score: Score = unscored
) -> Claim:
    """Another peer's claim of exactly the lost range: of the same arithmetic if there is one, then one that is loaded, then
    the quickest by score.

    Raises `NoRoute` if nobody else holds that range in that dtype.
    """
    fitting = [
        claim
        for claim in claims
        if (claim.model, claim.range, claim.dtype) == (lost.model, lost.range, lost.dtype)
        and claim.holder not in exclude
        and claim.holder != lost.holder
    ]
    if not fitting:
        raise NoRoute(f"no standby is left for layers {lost.range} of model {shortened(lost.model)}")
    arithmetic = (lost.numerics_class, lost.numerics)
    return min(
        fitting,
        key=lambda claim: (
            not score(claim.holder),
            (claim.numerics_class, claim.numerics) != arithmetic,
            _WEIGHTS[claim.kind],
            claim.layer_ms / max(score(claim.holder), SCORE_MIN),
            claim.standby,
            claim.holder,
        ),
    )


def _groups(claims: Sequence[Claim], key: Callable[[Claim], tuple[str, ...]]) -> list[list[Claim]]:
    groups: dict[tuple[str, ...], list[Claim]] = {}
    for claim in claims:
        groups.setdefault(key(claim), []).append(claim)
    return [groups[name] for name in sorted(groups)]


def _shortest(
    claims: Sequence[Claim], layers: int, entry: PeerId, scores: Mapping[PeerId, float]
) -> _Path | None:
    """Edges only lead forward, so one pass in the order of their first layers is enough."""
    best: dict[int, dict[PeerId, _Path]] = {0: {entry: _Path(_NOTHING, 0.0, ())}}
    for claim in sorted(claims, key=lambda claim: (claim.range, claim.standby, claim.holder)):
        arrivals = best.get(claim.range.start, {})
        if not arrivals or claim.range.end > layers:
            continue
        score = max(scores[claim.holder], SCORE_MIN)
        path = min(
            (_extended(path, at, claim, score) for at, path in arrivals.items()), key=lambda path: path.order
        )
        here = best.setdefault(claim.range.end, {})
        if claim.holder not in here or path.order < here[claim.holder].order:
            here[claim.holder] = path
    finished = [_returned(path, at, entry) for at, path in best.get(layers, {}).items()]
    return min(finished, key=lambda path: path.order, default=None)


def _extended(path: _Path, at: PeerId, claim: Claim, score: float) -> _Path:
    standbys, cost = path.cost
    ms = claim.range.layers * claim.layer_ms + (HOP_MS if claim.holder != at else 0.0)
    weight = _WEIGHTS[claim.kind] if claim.standby else 0
    return _Path((standbys + weight, cost + ms / score), path.token_ms + ms, (*path.stages, claim))


def _returned(path: _Path, at: PeerId, entry: PeerId) -> _Path:
    standbys, cost = path.cost
    ms = HOP_MS if at != entry else 0.0
    return _Path((standbys, cost + ms), path.token_ms + ms, path.stages)


def _what_is_missing(claims: Sequence[Claim], model: ModelDigest, layers: int) -> str:
    held = {layer for claim in claims for layer in range(claim.range.start, claim.range.end)}
    missing = [layer for layer in range(layers) if layer not in held]
    if missing:
        return f"no live node holds layers {_spans(missing)} of model {shortened(model)}"
    reached = _reach(claims)
    return (
        f"all layers of model {shortened(model)} are held, but no chain leads past layer {reached}: "
        f"layers {reached}-{layers - 1} are not covered by ranges that meet, in one dtype"
    )


def _reach(claims: Sequence[Claim]) -> int:
    """The furthest boundary that ranges of one dtype reach from layer 0."""
    furthest = 0
    for group in _groups(claims, lambda claim: (claim.dtype,)):
        reached = {0}
        for claim in sorted(group, key=lambda claim: claim.range):
            if claim.range.start in reached:
                reached.add(claim.range.end)
        furthest = max(furthest, *reached)
    return furthest


def _spans(layers: Sequence[int]) -> str:
    """Sorted numbers as ranges: "0-3, 7"."""
    spans: list[LayerRange] = []
    for layer in layers:
        if spans and spans[-1].end == layer:
            spans[-1] = LayerRange(spans[-1].start, layer + 1)
        else:
            spans.append(LayerRange(layer, layer + 1))
    return ", ".join(str(span) if span.layers > 1 else str(span.start) for span in spans)
