"""What a node shows of its peers: what each does, how it is, and what is held against it, as `node.opinions` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inference.placement.claims import ClaimTable
from mesh.members.driver import Members
from mesh.picture.driver import Picture
from mesh.picture.evidence import Happening
from mesh.picture.hearsay import Weighed
from node import opinions
from protocols.errors import NotFound, UserError
from protocols.health import HealthDigest
from protocols.ids import ModelDigest, PeerId, shortened


@dataclass(frozen=True, slots=True)
class Peers:
    """Reads the members, their claims and the picture of them; changes nothing."""

    own: PeerId
    members: Members
    claims: ClaimTable
    picture: Picture
    name_of: Callable[[PeerId], str]

    def all(self) -> tuple[opinions.Peer, ...]:
        """This node comes first."""
        links = self._links()
        return tuple(self._peer(peer, links) for peer in self._known())

    def why(self, name: str) -> opinions.WhyPeer:
        """By name, id, or the tail of an id. Raises `NotFound`."""
        peer = self._find(name)
        explained = self.picture.explain(peer)
        facets = tuple(
            opinions.PeerFacet(
                view.facet.name.lower(),
                round(view.own.good, 2),
                round(view.own.bad, 2),
                round(view.combined.good - view.own.good, 2),
                round(view.combined.bad - view.own.bad, 2),
                round(view.lower_bound, 3),
            )
            for view in explained.facets
        )
        return opinions.WhyPeer(
            self._peer(peer, self._links()),
            round(explained.overall, 3),
            facets,
            tuple(map(_happening, explained.happenings)),
            tuple(map(self._report, explained.reports)),
        )

    def _known(self) -> tuple[PeerId, ...]:
        return self.own, *(contact.peer for contact in self.members.members())

    def _peer(self, peer: PeerId, links: Mapping[PeerId, float]) -> opinions.Peer:
        tally, digest = self.picture.tally(peer), self.picture.health(peer)
        return opinions.Peer(
            peer=peer,
            name=self.name_of(peer),
            state="up" if peer == self.own or self.members.is_up(peer) else "down",
            score=round(self.picture.score(peer), 3),
            served=round(tally.served + tally.audited, 1),
            failed=round(tally.failed + tally.refused + tally.disputed, 1),
            late=round(tally.late, 1),
            wrong=round(tally.wrong, 1),
            ranges=self._ranges(peer),
            health=_health(digest) if digest else None,
            rtt_ms=links.get(peer),
        )

    def _ranges(self, peer: PeerId) -> tuple[str, ...]:
        return tuple(
            f"{self._model(note.digest)} {claim.range}" + (" (standby)" if claim.standby else "")
            for note in self.claims.models()
            for claim in sorted(self.claims.claims(note.digest), key=lambda claim: claim.range)
            if claim.holder == peer
        )

    def _model(self, model: ModelDigest) -> str:
        note = self.claims.note_of(model)
        return note.name if note else shortened(model)

    def _links(self) -> dict[PeerId, float]:
        """As this node measured them."""
        digest = self.picture.health(self.own)
        return {link.peer: link.rtt_ms for link in digest.links} if digest else {}

    def _report(self, weighed: Weighed) -> opinions.PeerReport:
        return opinions.PeerReport(
            weighed.reporter,
            self.name_of(weighed.reporter),
            self.name_of(weighed.group),
            weighed.trust.agreed,
            weighed.trust.contradicted,
            round(weighed.trust.weight, 3),
            round(weighed.claimed, 2),
            round(weighed.counted, 2),
            round(weighed.tally.served + weighed.tally.audited, 1),
            round(weighed.tally.failed + weighed.tally.refused + weighed.tally.disputed, 1),
            round(weighed.tally.late, 1),
            round(weighed.tally.wrong, 1),
        )

    def _find(self, name: str) -> PeerId:
        known = self._known()
        fitting = [peer for peer in known if name == self.name_of(peer) or peer.endswith(name)]
        if not fitting:
            raise NotFound(f"no member is called {name!r}: 'weft peers' lists them.")
        if len(fitting) > 1:
            raise UserError(f"{name!r} fits {len(fitting)} members: use more of the peer id.")
        return fitting[0]


def _happening(happening: Happening) -> opinions.PeerHappening:
    return opinions.PeerHappening(
        round(happening.wall_s, 3), happening.outcome.name.lower(), happening.detail
    )


def _health(digest: HealthDigest) -> opinions.PeerHealth:
    return opinions.PeerHealth(
        digest.load,
        digest.loop_lag_ms,
        digest.memory_free_bytes,
        digest.memory_total_bytes,
        digest.sessions,
        digest.queue,
    )
