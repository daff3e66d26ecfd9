"""Whom gossip may go through and whom to watch, told once for all that has happened since the last time."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mesh.liveness.detector import State
from mesh.liveness.watch import Watch
from protocols.ids import PeerId

Tell = Callable[[Collection[PeerId]], None]


class Candidates:
    """Gossip goes through those who are connected or live; whom to watch is a matter of the book."""

    def __init__(self, watch: Watch, tell_gossip: Tell) -> None:
        self._watch = watch
        self._tell_gossip = tell_gossip
        self._told: frozenset[PeerId] = frozenset()
        self.is_due = False

    def changed(self) -> None:
        """Something may have: they are to be told, when there is time, since that costs a look at all members."""
        self.is_due = True

    def tell(self, connected: frozenset[PeerId], known: frozenset[PeerId]) -> None:
        self.is_due = False
        living = {peer for peer, state in self._watch.states().items() if state <= State.SUSPECT}
        candidates = frozenset(living | connected)
        if candidates != self._told:
            self._told = candidates
            self._tell_gossip(candidates)
        self._watch.set_candidates(known)
