"""Spreading along trees that mend themselves, one for every author, after Plumtree (Leitão, Pereira, Rodrigues 2007).

An author's first bundle is pushed over all links. Where it arrives twice, the second link is pruned: it is no branch of that
author's tree, and ids alone are announced over it, gathered for `GOSSIP_ANNOUNCE_S` by the end with the lower peer id. The
other end waits `GOSSIP_ECHO_S` longer and announces what it was not told of, since both would say the same. A bundle that was
announced and has not come after `GOSSIP_GRAFT_S` is asked for from those who announced it, one by one, and the link becomes a
branch: that is how a tree grows around what was lost, and over new links. A link over which things come in much fewer hops
takes the place of a longer way.

One tree for all authors, as in the paper, comes to no rest while many speak at once: bundles of different authors cut one
ring in several places, and what falls apart is grafted together to new rings (measured: three duplicates for every bundle).
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Final

from protocols import limits
from protocols.gossip import HOPS_REPAIRED, BundleId, Graft, Have, Prune, Push, join_ids, split_ids
from protocols.ids import PeerId

ANNOUNCERS_MAX: Final = 8  # as many as there are links
SHORTCUT_HOPS: Final = 3
SHORTCUT_PAUSE_S: Final = 5.0  # between two: each costs a duplicate while it is being made

Sent = tuple[tuple[PeerId, ...], Push | Have | Graft | Prune]
"""To whom, and what."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A bundle that was here lately: whose, from which link, how many hops away from its author, and when."""

    author: PeerId
    source: PeerId
    hops: int
    at_s: float


@dataclass(slots=True)
class _Missing:
    """Announced and not come: who has it."""

    announcers: dict[PeerId, None] = field(default_factory=dict)


@dataclass(slots=True)
class _Announcing:
    """What waits to be announced over some of the links, and when."""

    at_s: float = math.inf
    told: dict[BundleId, Seen] = field(default_factory=dict)

    def gather(self, told: dict[BundleId, Seen], at_s: float) -> None:
        self.told |= told
        self.at_s = min(self.at_s, at_s)

    def take(self) -> dict[BundleId, Seen]:
        told, self.told, self.at_s = self.told, {}, math.inf
        return told


class Tree:
    """Pure; gives what is to be sent. What bundles are and whether they are wanted is the caller's business."""

    def __init__(self, own: PeerId) -> None:
        self._own = own
        self._links: dict[PeerId, None] = {}
        self._branches: dict[PeerId, dict[PeerId, None]] = {}  # of every author
        self._recent: dict[BundleId, Seen] = {}
        self._missing: dict[BundleId, _Missing] = {}
        self._alarms: list[tuple[float, BundleId]] = []
        self._first = _Announcing()
        self._echo = _Announcing()
        self._heard: dict[
            PeerId, dict[BundleId, int]
        ] = {}  # what neighbours announced of the echo's, in how many hops
        self._shortcut_at = -math.inf

    @property
    def deadline(self) -> float:
        """When `ring` has something to do."""
        overdue_at = self._alarms[0][0] if self._alarms else math.inf
        return min(self._first.at_s, self._echo.at_s, overdue_at)

    def is_recent(self, id_: BundleId) -> bool:
        """Whether it was here lately."""
        return id_ in self._recent

    def forget(self) -> None:
        """What was here lately may be asked for again."""
        self._recent.clear()

    def branches(self, author: PeerId) -> tuple[PeerId, ...]:
        """The links over which bundles of an author are pushed."""
        return tuple(self._branches.get(author, self._links))

    def add(self, peer: PeerId) -> None:
        """A new link. No branch of a tree that stands, until something is missed."""
        self._links[peer] = None

    def remove(self, peer: PeerId) -> None:
        """Idempotent."""
        self._links.pop(peer, None)
        self._heard.pop(peer, None)
        for branches in self._branches.values():
            branches.pop(peer, None)

    # Bundles --------------------------------------------------------------------------------------------------------

    def spread(self, push: Push, id_: BundleId, author: PeerId, source: PeerId, now: float) -> list[Sent]:
        """A bundle that is news here. `source` is who sent it, or this node itself, the author."""
        self._remember(id_, Seen(author, source, push.hops, now))
        branches = self._branches_of(author)
        is_repaired = push.hops == HOPS_REPAIRED
        if source in self._links and not is_repaired:
            branches[source] = None
        if is_repaired or len(branches) < len(self._links):
            seen = {id_: self._recent[id_]}
            self._first.gather(seen, now + limits.GOSSIP_ANNOUNCE_S)
            self._echo.gather(seen, now + limits.GOSSIP_ANNOUNCE_S + limits.GOSSIP_ECHO_S)
        if is_repaired:
            # Most neighbours of a node that catches up have it all; where halves meet, the announcements bring it on.
            return []
        peers = tuple(peer for peer in branches if peer != source)
        further = Push(min(push.hops + 1, HOPS_REPAIRED - 1), push.body, push.signature)
        return [(peers, further)] if peers else []

    def _remember(self, id_: BundleId, seen: Seen) -> None:
        self._missing.pop(id_, None)
        self._recent[id_] = seen
        while len(self._recent) > limits.GOSSIP_RECENT_MAX or self._is_oldest_past(seen.at_s):
            del self._recent[next(iter(self._recent))]

    def _is_oldest_past(self, now: float) -> bool:
        return now - next(iter(self._recent.values())).at_s > limits.GOSSIP_RECENT_S

    def _branches_of(self, author: PeerId) -> dict[PeerId, None]:
        branches = self._branches.get(author)
        if not branches:
            if len(self._branches) >= limits.MEMBERS_MAX:
                del self._branches[next(iter(self._branches))]
            branches = self._branches[author] = dict(self._links)
        return branches

    def duplicate(self, push: Push, author: PeerId, source: PeerId) -> list[Sent]:
        """A bundle that was here before. Said again every time, because the last prune may have been lost."""
        if push.hops == HOPS_REPAIRED or source not in self._links:
            return []
        self._branches_of(author).pop(source, None)
        return [((source,), Prune(author))]

    # What neighbours say --------------------------------------------------------------------------------------------

    def announced(self, have: Have, source: PeerId, unknown: list[BundleId], now: float) -> list[Sent]:
        """`unknown` are those of the announced that this node lacks. Raises `Malformed`."""
        for id_ in unknown:
            missing = self._missing.get(id_)
            if missing is None:
                if len(self._missing) >= limits.GOSSIP_MISSING_MAX:
                    break
                missing = self._missing[id_] = _Missing()
                heapq.heappush(self._alarms, (now + limits.GOSSIP_GRAFT_S, id_))
            if len(missing.announcers) < ANNOUNCERS_MAX:
                missing.announcers[source] = None
        told = [*zip(split_ids(have.ids), have.hops, strict=True)]
        if self._own > source and source in self._links:
            heard = self._heard.setdefault(source, {})
            heard |= {id_: hops for id_, hops in told if id_ in self._echo.told}
        return [] if unknown or now < self._shortcut_at else self._shorten(told, source, now)

    def _shorten(self, told: list[tuple[BundleId, int]], source: PeerId, now: float) -> list[Sent]:
        for id_, hops in told:
            seen = self._recent.get(id_)
            if seen is None or not _is_shortcut(seen.hops, hops):
                continue
            branches = self._branches_of(seen.author)
            if seen.source in branches and source not in branches and source in self._links:
                self._shortcut_at = now + SHORTCUT_PAUSE_S
                del branches[seen.source]
                branches[source] = None
                return [((source,), Graft(id_, is_here=True)), ((seen.source,), Prune(seen.author))]
        return []

    def grafted(self, author: PeerId, source: PeerId) -> None:
        """A neighbour wants bundles of an author pushed."""
        if source in self._links:
            self._branches_of(author)[source] = None

    def pruned(self, author: PeerId, source: PeerId) -> None:
        """A neighbour gets them elsewhere."""
        if author in self._branches:
            self._branches[author].pop(source, None)

    def seen(self, id_: BundleId) -> Seen | None:
        return self._recent.get(id_)

    # Time -----------------------------------------------------------------------------------------------------------

    def ring(self, now: float) -> list[Sent]:
        """Ask for what is overdue, and announce."""
        sent = self._ask_for_missing(now)
        if self._first.at_s <= now:
            told = self._first.take()
            for peer in self._links:
                if self._own < peer:
                    sent += self._announce(peer, told, {})
        if self._echo.at_s <= now:
            told, heard, self._heard = self._echo.take(), self._heard, {}
            for peer in self._links:
                if self._own > peer:
                    sent += self._announce(peer, told, heard.get(peer, {}))
        return sent

    def _announce(self, peer: PeerId, told: dict[BundleId, Seen], heard: dict[BundleId, int]) -> list[Sent]:
        """To a neighbour that has announced what is in `heard`, in so many hops."""
        ids = [
            id_
            for id_, seen in told.items()
            if seen.source != peer
            and (seen.hops == HOPS_REPAIRED or peer not in self._branches.get(seen.author, ()))
            and (id_ not in heard or _is_shortcut(heard[id_], seen.hops))
        ]
        parts = [
            ids[start : start + limits.GOSSIP_IDS_MAX] for start in range(0, len(ids), limits.GOSSIP_IDS_MAX)
        ]
        return [((peer,), Have(join_ids(part), bytes(told[id_].hops for id_ in part))) for part in parts]

    def _ask_for_missing(self, now: float) -> list[Sent]:
        asked: dict[PeerId, list[BundleId]] = {}
        while self._alarms and self._alarms[0][0] <= now:
            _, id_ = heapq.heappop(self._alarms)
            missing = self._missing.get(id_)
            if missing is None:
                continue
            announcer = self._next_announcer(missing)
            if announcer is None:
                del self._missing[id_]  # repair brings it if it still stands anywhere
                continue
            asked.setdefault(announcer, []).append(id_)
            heapq.heappush(self._alarms, (now + limits.GOSSIP_GRAFT_S, id_))
        return [((peer,), Graft(join_ids(ids), is_here=False)) for peer, ids in asked.items()]

    def _next_announcer(self, missing: _Missing) -> PeerId | None:
        while missing.announcers:
            peer = next(iter(missing.announcers))
            del missing.announcers[peer]
            if peer in self._links:
                return peer
        return None


def _is_shortcut(hops: int, over: int) -> bool:
    """Whether a bundle that took `hops` hops would come in much fewer from a neighbour that has it in `over`."""
    return HOPS_REPAIRED not in (hops, over) and hops - (over + 1) >= SHORTCUT_HOPS
