"""What this node has said: its words in the table, beside all others', and how they are kept there.

Its bundles are bounded like everybody's. Old ones that are kept for one small word each would in time push out others, so
their words are said again in a new one: nobody else may bundle them anew, since nobody else can sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from mesh.gossip.publishing import Outbox
from mesh.gossip.rates import Bucket
from mesh.gossip.table import Kept, Place, Table
from protocols import limits
from protocols.errors import LocalFault
from protocols.gossip import Bundle, BundleId, Heard, Item, Push, Topic, id_of
from protocols.ids import PeerId

WORDS_MAX: Final = limits.GOSSIP_AUTHOR_ITEMS_MAX * 3 // 4
WORDS_BYTES_MAX: Final = limits.GOSSIP_AUTHOR_BYTES_MAX // 2
BUNDLES_BYTES_MAX: Final = limits.GOSSIP_AUTHOR_BYTES_MAX * 3 // 4
UNDATED: Final = frozenset({Topic.CLAIMS, Topic.LIVENESS, Topic.MODELS})
INSIST_S: Final = 10.0  # between two times that a word is said again because it was displaced
INSIST_BURST: Final = 8  # at once, if several of a former life come back

Said = list[tuple[Heard, int]]
"""Own words, and when they expire in wall-clock ms."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A bundle of this node's, in the table already; `news` is what it changed there."""

    id: BundleId
    push: Push
    news: list[Heard]


class Voice:
    """Pure. `sign` gives the signature over a bundle's encoding."""

    def __init__(self, own: PeerId, sign: Callable[[bytes], bytes], table: Table) -> None:
        self._own = own
        self._table = table
        self._outbox = Outbox(own, sign)
        self._said: dict[Place, tuple[Item, float]] = {}  # since the start, with the time
        self._displaced: dict[Place, Bucket] = {}
        self.contested = (
            0  # words that were not said again, because somebody else with this key would not give way
        )

    @property
    def deadline(self) -> float:
        """When `ring` has something to seal."""
        return self._outbox.deadline

    def publish(self, word: Item, now: float, wall_ms: int) -> list[Sealed]:
        """Raises `LocalFault` for what gossip can't carry."""
        place = (Topic(word.topic), word.key)
        own = self._table.authors.get(self._own)
        if own is not None and place not in own.words and word.body:
            size_bytes = sum(len(each.heard.body) for each in own.words.values())
            if len(own.words) >= WORDS_MAX or size_bytes + len(word.body) > WORDS_BYTES_MAX:
                raise LocalFault(
                    f"{len(own.words)} words of {size_bytes} bytes stand: there is no room for more"
                )
        sealed = self._put(word, now, wall_ms)
        self._said[place] = word, now
        return sealed

    def date_anew(self, now: float, wall_ms: int) -> list[Sealed]:
        """The clock was wrong and has been set: say again what was said by it, which others took for old or not yet due.

        But for words that have a date in them, which would no longer be that of their bundle: their makers say them anew.
        """
        sealed: list[Sealed] = []
        for item, since in tuple(self._said.values()):
            left_s = math.ceil(item.ttl_s - (now - since))
            if (
                item.topic in UNDATED
                and left_s > 0
                and not self._outbox.is_waiting(Topic(item.topic), item.key)
            ):
                sealed += self._put(msgspec.structs.replace(item, ttl_s=left_s), now, wall_ms)
        return sealed

    def ring(self, now: float, wall_ms: int) -> list[Sealed]:
        """Seal what has waited long enough."""
        return self._seal(self._outbox.take(now), now, wall_ms) if self._outbox.deadline <= now else []

    def _put(self, word: Item, now: float, wall_ms: int) -> list[Sealed]:
        return self._seal(self._outbox.put(word, now), now, wall_ms)

    def _seal(self, items: list[Item], now: float, wall_ms: int) -> list[Sealed]:
        if not items:
            return []
        bundle, push = self._outbox.seal(items, wall_ms)
        kept = Kept(id_of(push.body), self._own, bundle.sequence, push.body, push.signature)
        news = self._table.merge(bundle, kept, items, wall_ms)
        return [Sealed(kept.id, push, news), *self._bundle_anew(now, wall_ms)]

    def _bundle_anew(self, now: float, wall_ms: int) -> list[Sealed]:
        own = self._table.authors.get(self._own)
        if own is None or own.size_bytes <= BUNDLES_BYTES_MAX:
            return []
        sealed: list[Sealed] = []
        excess_bytes = own.size_bytes - BUNDLES_BYTES_MAX // 2
        for kept in sorted(own.bundles.values(), key=lambda each: each.sequence):
            for place in sorted(kept.places) if excess_bytes > 0 else ():
                word = own.words[place]
                sealed += self._repeat(word.heard, word.expires_ms, now, wall_ms)
            excess_bytes -= len(kept.body)
        return sealed

    def _repeat(self, heard: Heard, expires_ms: int, now: float, wall_ms: int) -> list[Sealed]:
        left_s = (expires_ms - wall_ms) // 1000
        if left_s <= 0 or self._outbox.is_waiting(heard.topic, heard.key):
            return []
        return self._put(Item(int(heard.topic), heard.key, heard.body, left_s), now, wall_ms)

    # Own words that come from others ------------------------------------------------------------------------------

    def said(self, wall_ms: int) -> Said:
        """This node's words since its start, for the case that those of a former life displace them."""
        return [
            (word.heard, word.expires_ms)
            for place, word in self._table.live(self._own, wall_ms)
            if place in self._said
        ]

    def hear_own(
        self, bundle: Bundle, news: list[Heard], said: Said, now: float, wall_ms: int
    ) -> list[Sealed]:
        """A bundle of a former life, with a clock ahead of today's: what it displaced is said again, above it.

        A few times: it may as well be another node that runs with a copy of this one's key, and does the same.
        """
        self._outbox.sequence = max(self._outbox.sequence, bundle.sequence)
        displaced = {(heard.topic, heard.key) for heard in news}
        return [
            sealed
            for heard, expires_ms in said
            if (heard.topic, heard.key) in displaced and self._may_insist((heard.topic, heard.key), now)
            for sealed in self._repeat(heard, expires_ms, now, wall_ms)
        ]

    def _may_insist(self, place: Place, now: float) -> bool:
        bucket = self._displaced.setdefault(place, Bucket(1 / INSIST_S, INSIST_BURST))
        if bucket.take(1, now):
            return True
        self.contested += 1
        return False

    def sweep(self) -> None:
        """Forget what does not stand any more."""
        own = self._table.authors.get(self._own)
        self._said = {
            place: said for place, said in self._said.items() if own is not None and place in own.words
        }
        self._displaced = {place: bucket for place, bucket in self._displaced.items() if place in self._said}
