"""How a node is, by its own account: what its digest is made of, how long that counts, and one figure for all of it.

The figure is a weighted product, so that one thing that is bad can't be made good by others:

    score = product of part ^ weight     part: 1 while it does no harm, in a straight line down to 0.01

It says how much a node can take now, and nothing about whether it is to be trusted: that is what others saw of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocols import limits
from protocols.health import HEALTH_CODEC, HealthDigest, LinkHealth, RangeHealth

LEAST: Final = 0.01
SCORE_STEP: Final = 0.1  # a change that may make others choose otherwise
UNKNOWN_SCORE: Final = 0.5  # of a node that says nothing: neither picked for that nor left out


@dataclass(frozen=True, slots=True)
class Vitals:
    """Raw readings. `load` is the busy share of the machine, over 1 where more waits for cores than there are."""

    loop_lag_ms: float
    memory_free_bytes: int
    memory_total_bytes: int
    load: float
    sessions: int
    queue: int
    ranges: Sequence[RangeHealth] = ()
    links: Sequence[LinkHealth] = ()


def digest_of(vitals: Vitals, made_ms: int) -> HealthDigest:
    """A digest that others take. `ranges` and `links` are in the order of their importance; the last links go first."""
    links = tuple(map(_rounded, vitals.links[: limits.HEALTH_LINKS_MAX]))
    ranges = tuple(
        RangeHealth(each.model, each.range, round(each.layer_ms, 3))
        for each in vitals.ranges[: limits.HEALTH_RANGES_MAX]
    )

    def with_links(count: int) -> HealthDigest:
        return HealthDigest(
            loop_lag_ms=round(max(0.0, vitals.loop_lag_ms), 1),
            memory_free_bytes=max(0, min(vitals.memory_free_bytes, vitals.memory_total_bytes)),
            memory_total_bytes=max(0, vitals.memory_total_bytes),
            load=round(min(max(0.0, vitals.load), 1.0), 3),
            sessions=vitals.sessions,
            queue=vitals.queue,
            ranges=ranges,
            links=links[:count],
            made_ms=made_ms,
        )

    for count in range(len(links), 0, -1):
        digest = with_links(count)
        if len(HEALTH_CODEC.encode(digest)) <= limits.HEALTH_BYTES:
            return digest
    return with_links(0)


def _rounded(link: LinkHealth) -> LinkHealth:
    return LinkHealth(link.peer, round(link.rtt_ms, 2), float(round(link.bytes_per_s)))


def pause_s(members: int) -> float:
    """Between two digests of a node whose health has not changed much, in a mesh of so many."""
    return limits.HEALTH_S * max(1.0, members / limits.HEALTH_MEMBERS)


def is_due(told: HealthDigest | None, digest: HealthDigest, silent_s: float, members: int) -> bool:
    """Whether to tell `digest`, asked every `HEALTH_S` or so and `silent_s` after `told`: large meshes hear of changes at once."""
    if told is None or silent_s >= 0.8 * pause_s(members):  # `HEALTH_S` comes a tenth early or late
        return True
    return told.ranges != digest.ranges or abs(score(told) - score(digest)) >= SCORE_STEP


def is_known(heard_s: float, now_s: float, members: int) -> bool:
    """Whether a digest that came at `heard_s`, by this node's own clock, still says how its maker is."""
    return now_s - heard_s <= limits.HEALTH_MISSED * pause_s(members)


def score(digest: HealthDigest | None) -> float:
    """In [0, 1]; `UNKNOWN_SCORE` without a digest."""
    if digest is None:
        return UNKNOWN_SCORE
    product = 1.0
    for weight, part in _PARTS:
        product *= part(digest) ** weight
    return product


def _falling(value: float, harmless: float, ruinous: float) -> float:
    """1 up to `harmless`, `LEAST` from `ruinous` on."""
    return min(1.0, max(LEAST, (ruinous - value) / (ruinous - harmless)))


def _memory(digest: HealthDigest) -> float:
    if digest.memory_total_bytes == 0:
        return LEAST
    return _falling(1.0 - digest.memory_free_bytes / digest.memory_total_bytes, 0.9, 1.0)


_PARTS: Final[tuple[tuple[float, Callable[[HealthDigest], float]], ...]] = (
    (0.35, lambda digest: _falling(digest.loop_lag_ms, 100.0, 1000.0)),  # above a second it is taken for dead
    (0.25, _memory),
    (0.2, lambda digest: _falling(digest.load, 0.8, 1.2)),  # all cores busy is half of the part
    (0.2, lambda digest: _falling(digest.queue, 1.0, 16.0)),
)
