"""What the planner is told of nodes besides their own answers: the score of each and why, where it stands, and its links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from inference.placement.planning.plan import Link, LinkTable, NodeView
from mesh.members.driver import Members
from mesh.picture.driver import Picture
from protocols.ids import PeerId
from protocols.observations import Tally
from protocols.placement import Capacity

DOMAIN_LABELS: Final = ("zone", "site")  # the first that a node has names its failure domain


@dataclass(frozen=True, slots=True)
class PictureOutlook:
    """Implements `inference.placement.replacing.Outlook`.

    The load of a node is left out: its layers were measured under it.
    """

    picture: Picture
    members: Members

    def view(self, peer: PeerId, capacity: Capacity) -> NodeView:
        score = self.picture.score(peer)
        reason = _reason(self.picture.tally(peer)) if score < 1 else ""
        return NodeView(capacity, score=score, score_reason=reason, domain=self._domain(peer))

    def links(self) -> LinkTable:
        """As their ends have measured them, if that is more than the least that a hop is taken to cost."""
        table, default = {}, Link()
        for contact in self.members.members():
            digest = self.picture.health(contact.peer)
            for link in digest.links if digest is not None else ():
                if link.rtt_ms / 2 > default.hop_ms:
                    table[contact.peer, link.peer] = Link(link.rtt_ms / 2, default.bytes_per_s)
        return LinkTable(table)

    def _domain(self, peer: PeerId) -> str:
        record = self.members.record(peer)
        labels = dict(label.split("=", 1) for label in record.labels) if record is not None else {}
        return next((f"{key}={labels[key]}" for key in DOMAIN_LABELS if key in labels), "")


def _reason(tally: Tally) -> str:
    seen = [
        f"{count:.1f} {name}"
        for name in ("wrong", "failed", "disputed", "refused", "late", "served")
        if (count := getattr(tally, name)) >= 0.05
    ]
    return f"seen here: {', '.join(seen)}" if seen else "told by members that have agreed with this node"
