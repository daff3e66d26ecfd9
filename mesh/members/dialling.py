"""Who dials whom, and when: one record per peer and plane that ought to be connected.

Between two members the lower peer id dials and the higher one waits `REDIAL_PATIENCE_S` for it, so that two nodes rarely
dial each other at once. Failures double the pause from `REDIAL_S_MIN` to `REDIAL_S_MAX`, or to `REDIAL_UNMET_S_MAX` for who
was never reached since the start: it may be made up, and if it is not it dials this node. A connection that was lost
sooner than that had been no success, so it does not set the pause back: else a peer that accepts and hangs up would be
dialled four times a second.

    waiting --due--> dialling --connected--> up --lost--> waiting
       ^________________|ended without a connection
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from protocols import limits
from protocols.ids import PeerId
from protocols.streams import Plane

Link = tuple[PeerId, Plane]


@dataclass(slots=True)
class Attempt:
    """`next_at` is infinite while dialling or up."""

    next_at: float
    pause_s: float = limits.REDIAL_S_MIN
    up_since: float | None = None
    was_up: bool = False

    def wait(self, now: float, at_least_s: float = 0.0) -> None:
        self.next_at = now + max(self.pause_s, at_least_s)
        most_s = limits.REDIAL_S_MAX if self.was_up else limits.REDIAL_UNMET_S_MAX
        self.pause_s = min(2 * self.pause_s, most_s)


_NEXT_AT: Final = attrgetter("next_at")


class Dialling:
    """All links of one node."""

    def __init__(self, own: PeerId) -> None:
        self._own = own
        self._attempts: dict[Link, Attempt] = {}

    def want(self, peer: PeerId, now: float, *, within_s: float) -> None:
        """There are fresh addresses of a peer: be connected on both planes, dialling after `within_s` at the latest."""
        for plane in Plane:
            attempt = self._attempts.setdefault((peer, plane), Attempt(now + within_s))
            attempt.pause_s = limits.REDIAL_S_MIN
            if attempt.next_at != math.inf:
                attempt.next_at = min(attempt.next_at, now + within_s)

    def is_wanted(self, peer: PeerId) -> bool:
        """False before the first `want` and after `forget`."""
        return any((peer, plane) in self._attempts for plane in Plane)

    def forget(self, peer: PeerId) -> None:
        """Leave it to the peer to connect."""
        for plane in Plane:
            self._attempts.pop((peer, plane), None)

    def connected(self, peer: PeerId, plane: Plane, now: float) -> None:
        attempt = self._attempts.setdefault((peer, plane), Attempt(math.inf))
        attempt.next_at, attempt.up_since, attempt.was_up = math.inf, now, True

    def lost(self, peer: PeerId, plane: Plane, now: float) -> None:
        attempt = self._attempts.setdefault((peer, plane), Attempt(math.inf))
        if attempt.up_since is not None and now - attempt.up_since >= limits.REDIAL_S_MAX:
            attempt.pause_s = limits.REDIAL_S_MIN
        attempt.up_since = None
        attempt.pause_s = min(attempt.pause_s, limits.REDIAL_S_MAX)
        attempt.wait(now, self._patience_s(peer))

    def ended(self, peer: PeerId, plane: Plane, now: float) -> None:
        """A dial is over. If it made a connection, that was told by `connected` or will be."""
        attempt = self._attempts.get((peer, plane))
        if attempt is not None and attempt.up_since is None and attempt.next_at == math.inf:
            attempt.wait(now)

    def due(self, now: float) -> list[Link]:
        """The links to dial now; each counts as dialling until it is `connected` or `ended`."""
        if self.deadline > now:
            return []  # as nearly always
        links = [link for link, attempt in self._attempts.items() if attempt.next_at <= now]
        for link in links:
            self._attempts[link].next_at = math.inf
        return links

    @property
    def deadline(self) -> float:
        """When something is due next."""
        return min(map(_NEXT_AT, self._attempts.values()), default=math.inf)

    def _patience_s(self, peer: PeerId) -> float:
        return 0.0 if self._own < peer else limits.REDIAL_PATIENCE_S
