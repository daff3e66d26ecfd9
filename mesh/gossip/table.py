"""The newest word of every author under every (topic, key), and the bundles that hold those words.

Of two words the one with the greater (sequence, bundle id) stands: whatever the order in which bundles come, and however
often, the table ends the same. A bundle none of whose words is newer changes nothing, which is what makes replays harmless.
A word that has expired guards against older ones until those would have expired as well: otherwise a replay could bring
back what was withdrawn or replaced by something shorter-lived.

A bundle is kept, for repair, while a word in it stands and has not expired. An author that says too much loses its oldest
bundles, and nothing as old is taken from it again. Times are wall-clock ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocols import limits
from protocols.gossip import Bundle, BundleId, Heard, Item, Topic
from protocols.ids import PeerId

Place = tuple[Topic, str]

_TOPICS: Final = {int(topic): topic for topic in Topic}


@dataclass(slots=True)
class Kept:
    """A bundle as it is passed on. `places` are the words of it that stand."""

    id: BundleId
    author: PeerId
    sequence: int
    body: bytes
    signature: bytes
    places: set[Place] = field(default_factory=set)

    @property
    def has_record(self) -> bool:
        """Whether it says who its author is."""
        return any(topic is Topic.RECORD for topic, _ in self.places)


@dataclass(slots=True)
class Word:
    """What stands under a place. Shown until `expires_ms`, guarded until `guarded_ms`; `kept` is None after it was shown."""

    heard: Heard
    bundle: BundleId
    expires_ms: int
    guarded_ms: int
    kept: Kept | None

    @property
    def rank(self) -> tuple[int, BundleId]:
        return self.heard.sequence, self.bundle


@dataclass(slots=True)
class Author:
    """One author's words. Nothing with a sequence up to `floor` is taken any more."""

    words: dict[Place, Word] = field(default_factory=dict)
    bundles: dict[BundleId, Kept] = field(default_factory=dict)
    sequences: dict[int, BundleId] = field(default_factory=dict)
    size_bytes: int = 0
    floor: int = -1

    @property
    def sequence(self) -> int:
        """The greatest that stands, -1 if none does."""
        return max((word.heard.sequence for word in self.words.values()), default=-1)


class Table:
    """All authors' words. Who may be an author is the caller's business, and so is how many there are."""

    def __init__(self) -> None:
        self.authors: dict[PeerId, Author] = {}
        self.bundles: dict[BundleId, Kept] = {}
        self._topics: dict[Topic, dict[tuple[PeerId, str], Word]] = {topic: {} for topic in Topic}

    def items(self, topic: Topic, wall_ms: int) -> tuple[Heard, ...]:
        """What stands and is neither withdrawn nor expired."""
        return tuple(
            word.heard
            for word in self._topics[topic].values()
            if word.heard.body and word.expires_ms > wall_ms
        )

    def find(self, author: PeerId, place: Place) -> Word | None:
        known = self.authors.get(author)
        return known.words.get(place) if known else None

    def newer(self, bundle: Bundle, id_: BundleId) -> list[Item]:
        """The items of a bundle that would change something; of topics that this node knows."""
        author = self.authors.get(bundle.author)
        if author is None:
            return [item for item in bundle.items if item.topic in _TOPICS]
        if bundle.sequence <= author.floor:
            return []
        rank = (bundle.sequence, id_)
        found = []
        for item in bundle.items:
            if item.topic in _TOPICS:
                word = author.words.get((_TOPICS[item.topic], item.key))
                if word is None or word.rank < rank:
                    found.append(item)
        return found

    def is_equivocation(self, bundle: Bundle, id_: BundleId) -> bool:
        """Whether another bundle of that author and sequence is kept."""
        author = self.authors.get(bundle.author)
        return author is not None and author.sequences.get(bundle.sequence, id_) != id_

    def merge(self, bundle: Bundle, kept: Kept, items: Sequence[Item], wall_ms: int) -> list[Heard]:
        """Enter those of `newer` items that the caller accepts; gives what is news, withdrawals included.

        Whatever was expired before it came guards, and is no news.
        """
        author = self.authors.setdefault(bundle.author, Author())
        news = []
        for item in items:
            word = self._enter(author, bundle, kept, item, wall_ms)
            if word.kept is not None:
                news.append(word.heard)
        if kept.places and kept.id not in author.bundles:
            author.bundles[kept.id] = self.bundles[kept.id] = kept
            author.sequences.setdefault(kept.sequence, kept.id)
            author.size_bytes += len(kept.body)
        self._trim(bundle.author, author)
        return [heard for heard in news if self._stands(author, heard)]

    def _enter(self, author: Author, bundle: Bundle, kept: Kept, item: Item, wall_ms: int) -> Word:
        place = (_TOPICS[item.topic], item.key)
        heard = Heard(bundle.author, place[0], item.key, item.body, bundle.made_ms, bundle.sequence)
        expires_ms = bundle.made_ms + 1000 * item.ttl_s
        word = Word(heard, kept.id, expires_ms, expires_ms, kept if expires_ms > wall_ms else None)
        old = author.words.get(place)
        if old is not None:
            word.guarded_ms = max(word.guarded_ms, old.guarded_ms)
            self._release(author, place, old)
        author.words[place] = word
        self._topics[place[0]][bundle.author, item.key] = word
        if word.kept is not None:
            kept.places.add(place)
        return word

    def _release(self, author: Author, place: Place, word: Word) -> None:
        """The word stands no longer; its bundle goes with the last one."""
        kept, word.kept = word.kept, None
        if kept is not None:
            kept.places.discard(place)
            if not kept.places and kept.id in self.bundles:
                del self.bundles[kept.id]
                del author.bundles[kept.id]
                if author.sequences.get(kept.sequence) == kept.id:
                    del author.sequences[kept.sequence]
                author.size_bytes -= len(kept.body)

    def _trim(self, peer: PeerId, author: Author) -> None:
        while (
            author.size_bytes > limits.GOSSIP_AUTHOR_BYTES_MAX
            or len(author.words) > limits.GOSSIP_AUTHOR_ITEMS_MAX
        ):
            oldest = min(word.heard.sequence for word in author.words.values())
            author.floor = max(author.floor, oldest)
            for place in [place for place, word in author.words.items() if word.heard.sequence == oldest]:
                self._remove(peer, author, place)

    def _remove(self, peer: PeerId, author: Author, place: Place) -> None:
        word = author.words.pop(place)
        del self._topics[place[0]][peer, place[1]]
        self._release(author, place, word)

    def _stands(self, author: Author, heard: Heard) -> bool:
        word = author.words.get((heard.topic, heard.key))
        return word is not None and word.heard is heard

    def expire(self, wall_ms: int) -> None:
        """Let go of what nobody needs any more."""
        for peer, author in tuple(self.authors.items()):
            for place, word in tuple(author.words.items()):
                if word.guarded_ms <= wall_ms:
                    self._remove(peer, author, place)
                elif word.expires_ms <= wall_ms:
                    self._release(author, place, word)
            if not author.words:
                del self.authors[peer]

    def forget_made_after(self, made_ms: int, spared: PeerId) -> None:
        """All words of bundles that were made later, but for those of one author: their sequences would hide newer words."""
        for peer, author in tuple(self.authors.items()):
            if peer == spared:
                continue
            for place, word in tuple(author.words.items()):
                if word.heard.made_ms > made_ms:
                    self._remove(peer, author, place)
            # Words of such a time have been let go of; their floor would keep out all others.
            if author.floor > made_ms:
                author.floor = -1
            if not author.words:
                del self.authors[peer]

    def forget(self, peer: PeerId) -> None:
        """An author that is no member any more."""
        author = self.authors.pop(peer)
        for place in tuple(author.words):
            self._remove(peer, author, place)

    def live(self, author: PeerId, wall_ms: int) -> Iterator[tuple[Place, Word]]:
        """An author's words that have not expired, the oldest first."""
        known = self.authors.get(author, Author())
        shown = [(place, word) for place, word in known.words.items() if word.expires_ms > wall_ms]
        return iter(sorted(shown, key=lambda each: each[1].rank))
