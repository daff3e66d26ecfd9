"""What is taken from the bundles that come in, and why the rest is not. Cheap checks come first, the signature late.

Everybody checks a bundle before passing it on. So bytes that do not decode and signatures that do not hold are the fault of
the neighbour that sent them; a bundle that is too old, too new, of nobody known or not to be believed may look different
from there, and is only counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mesh.gossip.rates import Bucket, PeerRates, author_bucket
from mesh.gossip.table import Kept, Table
from protocols import limits
from protocols.errors import RemoteFault, Unauthenticated
from protocols.gossip import Bundle, BundleId, Heard, Item, Push, Topic, decode_bundle
from protocols.ids import PeerId

_AHEAD_MS: Final = int(1000 * limits.GOSSIP_AHEAD_S)

Validator = Callable[[Heard], None]
"""Raises `RemoteFault` for a word that must not be believed."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the gossip does not know by itself. `is_signed(author, body, signature)` checks one bundle."""

    is_signed: Callable[[PeerId, bytes, bytes], bool]
    is_member: Callable[[PeerId], bool]
    validators: Mapping[Topic, Validator]


@dataclass(slots=True)
class Intake:
    """Fills the table. `counts` says how often what happened."""

    table: Table
    rules: Rules
    counts: Counter[str] = field(default_factory=Counter)
    _refused: dict[BundleId, float] = field(default_factory=dict)
    _authors: dict[PeerId, Bucket] = field(default_factory=dict)

    def is_refused(self, id_: BundleId, now: float) -> bool:
        """Whether this bundle was looked at lately, in vain."""
        return self._refused.get(id_, now) > now

    def take(
        self, push: Push, id_: BundleId, rates: PeerRates, now: float, wall_ms: int
    ) -> tuple[Bundle, list[Heard]]:
        """What is news, entered in the table. Raises `Malformed`, and `Unauthenticated` for one forged signature too many."""
        bundle = decode_bundle(push.body)
        is_member = self.rules.is_member(bundle.author)
        items = self._fresh(bundle, id_, now, wall_ms, is_member=is_member)
        is_double = self.table.is_equivocation(bundle, id_)
        if not items and not is_double:
            return bundle, []
        if not is_member and not rates.strangers.take(1, now):
            self.counts["limited"] += 1
            return bundle, []
        if not self.rules.is_signed(bundle.author, push.body, push.signature):
            self.counts["forged"] += 1
            if not rates.forged.take(1, now):
                raise Unauthenticated("it passes on forged bundles")
            return bundle, []
        if is_double:
            self.counts["equivocation"] += 1
        if not self._has_room(bundle.author, now):
            return bundle, []
        believed = self._believed(bundle, items, is_member=is_member)
        if not believed:
            self._refuse(id_, now)
            return bundle, []
        kept = Kept(id_, bundle.author, bundle.sequence, push.body, push.signature)
        news = self.table.merge(bundle, kept, believed, wall_ms)
        self.counts["bundles"] += 1
        self.counts["words"] += len(news)
        if bundle.made_ms > wall_ms + limits.HEALTH_TTL_S * 1000:
            self.counts["ahead"] += 1
        return bundle, news

    def _fresh(
        self, bundle: Bundle, id_: BundleId, now: float, wall_ms: int, *, is_member: bool
    ) -> list[Item]:
        """What may be news if the signature holds."""
        if not is_member and not any(item.topic == Topic.RECORD for item in bundle.items):
            self.counts["stranger"] += 1
            return []
        items = self.table.newer(bundle, id_)
        if bundle.made_ms > wall_ms + _AHEAD_MS:
            why = "future"
        elif not items:
            why = "replayed"
        elif all(self._is_over(bundle, item, wall_ms) for item in items):
            why = "expired"
        else:
            return items
        self.counts[why] += 1
        self._refuse(id_, now)
        return []

    def _is_over(self, bundle: Bundle, item: Item, wall_ms: int) -> bool:
        """Expired, and nothing older stands that it would replace."""
        if bundle.made_ms + 1000 * item.ttl_s > wall_ms:
            return False
        word = self.table.find(bundle.author, (Topic(item.topic), item.key))
        return word is None or word.expires_ms <= wall_ms

    def _has_room(self, author: PeerId, now: float) -> bool:
        if author not in self.table.authors and len(self.table.authors) >= limits.MEMBERS_MAX:
            self.counts["full"] += 1
            return False
        if author not in self._authors:
            if len(self._authors) >= 2 * limits.MEMBERS_MAX:
                self._authors.pop(next(iter(self._authors)))
            self._authors[author] = author_bucket()
        if not self._authors[author].take(1, now):
            self.counts["limited"] += 1
            return False
        return True

    def _believed(self, bundle: Bundle, items: list[Item], *, is_member: bool) -> list[Item]:
        """A stranger is judged by its record, and without one that holds nothing of it is taken."""
        if not is_member:
            records = [item for item in items if item.topic == Topic.RECORD]
            if not records or not all(self._holds(bundle, item) for item in records):
                return []
        return [item for item in items if self._holds(bundle, item)]

    def _holds(self, bundle: Bundle, item: Item) -> bool:
        topic = Topic(item.topic)
        heard = Heard(bundle.author, topic, item.key, item.body, bundle.made_ms, bundle.sequence)
        return self._is_valid(heard)

    def _is_valid(self, heard: Heard) -> bool:
        validator = self.rules.validators.get(heard.topic)
        try:
            if validator is not None and heard.body:
                validator(heard)
        except RemoteFault:
            self.counts["refused"] += 1
            return False
        return True

    def _refuse(self, id_: BundleId, now: float) -> None:
        if len(self._refused) >= limits.GOSSIP_RECENT_MAX:
            self._refused.pop(next(iter(self._refused)))
        self._refused[id_] = now + limits.GOSSIP_CUT_OFF_S

    def reconsider(self, own: PeerId, wall_ms: int) -> list[Heard]:
        """The clock that all was held against was wrong: what was looked at in vain may come again, what nobody else would have
        taken goes, and of the bundles that are here the words that had counted as expired are news."""
        self._refused.clear()
        self.table.forget_made_after(wall_ms + _AHEAD_MS, spared=own)
        news: list[Heard] = []
        for kept in tuple(self.table.bundles.values()):
            bundle = decode_bundle(kept.body)
            items = [
                item for item in self.table.newer(bundle, kept.id) if not self._is_over(bundle, item, wall_ms)
            ]
            if items:
                is_member = self.rules.is_member(kept.author)
                believed = self._believed(bundle, items, is_member=is_member)
                news += self.table.merge(bundle, kept, believed, wall_ms)
        return news

    def sweep(self, own: PeerId, now: float, wall_ms: int) -> None:
        """Let go of what has expired, and of authors that are no members and whose record holds no longer."""
        self._refused = {id_: until for id_, until in self._refused.items() if until > now}
        self.table.expire(wall_ms)
        for peer, author in tuple(self.table.authors.items()):
            if peer == own or self.rules.is_member(peer):
                continue
            records = [word.heard for place, word in author.words.items() if place[0] is Topic.RECORD]
            if not any(heard.body and self._is_valid(heard) for heard in records):
                self.table.forget(peer)
