"""The gossip of one node as a machine: views, tree, repair and table, put together. No clock, no network, no chance of its own.

    outputs = machine.handle(event, now, wall_ms)      and again, with `Alarm()`, when `deadline` has passed

`now` is monotonic seconds and `wall_ms` the wall clock. A link is a stream that the driver opens on `Open` and reports as
`Opened`; its end is `Lost`. Messages of peers that are no neighbours change nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Final, assert_never

from mesh.gossip.dissemination import Sent, Tree
from mesh.gossip.events import (
    Alarm,
    Candidates,
    Close,
    Deliver,
    Event,
    Lost,
    Misbehaved,
    Open,
    Opened,
    Output,
    Publish,
    Received,
    Send,
)
from mesh.gossip.intake import Intake, Rules
from mesh.gossip.publishing import word_of
from mesh.gossip.rates import PeerRates
from mesh.gossip.repair import compare, digest_of, listing_for
from mesh.gossip.table import Table
from mesh.gossip.views import Draw, Views
from mesh.gossip.voice import Sealed, Voice
from protocols import gossip as wire
from protocols import limits
from protocols.errors import Malformed, RemoteFault
from protocols.gossip import BundleId, GossipMessage, Heard, Push, Topic
from protocols.ids import PeerId
from protocols.seams import Randomness

LOST_AVOID_S: Final = 1.0  # a neighbour that was lost may be back soon
AUTHOR_WITHIN_BYTES: Final = 80  # the author is the first thing in a bundle
CLOCK_SET_MS: Final = (
    5000  # the wall clock against the monotonic one: no drift comes to that between two events
)
PEERS_REMEMBERED: Final = 4 * limits.GOSSIP_PASSIVE  # with what they have used of their rates


class Machine:
    """One node. `sign` gives the signature over the encoding of a bundle of this node's."""

    def __init__(
        self, own: PeerId, sign: Callable[[bytes], bytes], rules: Rules, randomness: Randomness
    ) -> None:
        self._own = own
        self._draw = Draw(randomness)
        self._views = Views(own, self._draw)
        self._tree = Tree(own)
        self._table = Table()
        self._intake = Intake(self._table, rules)
        self._voice = Voice(own, sign, self._table)
        self._rates: dict[PeerId, PeerRates] = {}
        self._repair_at = math.inf
        self._repair_with: PeerId | None = None
        self._outputs: list[Output] = []
        self._now = 0.0
        self._wall_ms = 0
        self._offset_ms: int | None = None  # from the monotonic clock to the wall clock

    # What can be asked of it --------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When it wants an `Alarm`; early ones do no harm."""
        return min(
            self._voice.deadline,
            self._tree.deadline,
            self._repair_at,
            self._views.shuffle_at,
            self._views.open_at(),
        )

    @property
    def neighbours(self) -> tuple[PeerId, ...]:
        return tuple(self._views.active)

    @property
    def counts(self) -> Counter[str]:
        """How often what happened, since the start."""
        return self._intake.counts

    @property
    def size(self) -> tuple[int, int]:
        """Authors and bundles in the table."""
        return len(self._table.authors), len(self._table.bundles)

    def items(self, topic: Topic, wall_ms: int) -> tuple[Heard, ...]:
        """The newest of every (author, key) that has neither expired nor been withdrawn."""
        return self._table.items(topic, wall_ms)

    def is_cut_off(self, peer: PeerId, now: float) -> bool:
        """Whether it broke the rules a while ago."""
        return self._views.is_cut_off(peer, now)

    # Events -------------------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float, wall_ms: int) -> list[Output]:
        """Raises `LocalFault` for a `Publish` of what gossip can't carry, and nothing else."""
        self._now, self._wall_ms = now, wall_ms
        self._outputs = []
        self._compare_clocks()
        match event:
            case Received(peer, message):
                self._receive(peer, message)
            case Publish(topic, key, body, ttl_s):
                self._spread(self._voice.publish(word_of(topic, key, body, ttl_s), now, wall_ms))
            case Alarm():
                self._ring()
            case Opened(peer):
                if peer in self._views.opening:
                    self._send(peer, wire.Join(urgent=not self._views.active))
                elif peer not in self._views.active:
                    self._outputs.append(Close(peer))
            case Lost(peer):
                self._lose(peer)
            case Misbehaved(peer):
                self._cut_off(peer)
            case Candidates(peers):
                self._views.set_candidates(peers, now)
                self._repair_at = min(self._repair_at, now + self._repair_pause_s())
                self._fill()
            case _:
                assert_never(event)
        return self._outputs

    def _compare_clocks(self) -> None:
        offset_ms = self._wall_ms - int(self._now * 1000)
        if self._offset_ms is not None and abs(offset_ms - self._offset_ms) > CLOCK_SET_MS:
            self.counts["clock_set"] += 1
            self._outputs += map(Deliver, self._intake.reconsider(self._own, self._wall_ms))
            self._tree.forget()  # much of it may have been let go of as expired
            self._spread(self._voice.date_anew(self._now, self._wall_ms))
            self._repair_at = min(self._repair_at, self._now + limits.GOSSIP_REPAIR_MORE_S)
        self._offset_ms = offset_ms

    def _receive(self, peer: PeerId, message: GossipMessage) -> None:
        rates = self._rates.get(peer) or self._remember_rates(peer)
        if not rates.admits(*_cost(message), self._now):
            self.counts["limited"] += 1
            return
        try:
            match message:
                case wire.Join(urgent):
                    self._joined(peer, urgent)
                case wire.Welcome():
                    self._welcomed(peer)
                case wire.Full():
                    self._turned_away(peer)
                case _:
                    if peer in self._views.active:
                        self._hear(peer, message, rates)
        except RemoteFault:
            self._cut_off(peer)

    def _hear(
        self,
        peer: PeerId,
        message: Push | wire.Have | wire.Graft | wire.Prune | wire.Digest | wire.Listing | wire.Want,
        rates: PeerRates,
    ) -> None:
        match message:
            case Push():
                self._take(peer, message, rates)
            case wire.Have():
                self._announced(peer, message)
            case wire.Graft(ids, is_here):
                self._grafted(peer, wire.split_ids(ids), rates, is_here)
            case wire.Prune(author):
                self._tree.pruned(author, peer)
            case wire.Want(ids):
                self._push(peer, wire.split_ids(ids), rates)
            case wire.Digest() | wire.Listing():
                if rates.repairs.take(1, self._now):
                    self._repair(peer, message, rates)
                else:
                    self.counts["limited"] += 1
            case _:
                assert_never(message)

    def _remember_rates(self, peer: PeerId) -> PeerRates:
        if len(self._rates) >= PEERS_REMEMBERED:
            del self._rates[min(self._rates, key=lambda each: self._rates[each].used_at)]
        return self._rates.setdefault(peer, PeerRates())

    # Neighbours ---------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        self._outputs += [Open(peer) for peer in self._views.to_open(self._now)]

    def _joined(self, peer: PeerId, urgent: bool) -> None:
        if not self._views.admits(peer, urgent, self._now):
            self._send(peer, wire.Full())
            self._outputs.append(Close(peer))
            return
        self._adopt(peer)
        self._send(peer, wire.Welcome())
        self._dismiss(self._views.victim(spared=peer))

    def _welcomed(self, peer: PeerId) -> None:
        if peer in self._views.opening:
            self._adopt(peer)
            self._send(peer, digest_of(self._table.bundles))
            self._dismiss(self._views.victim(spared=peer))  # others may have come in meanwhile

    def _adopt(self, peer: PeerId) -> None:
        self._views.add(peer)
        self._tree.add(peer)
        self._repair_at = min(self._repair_at, self._now + self._repair_pause_s())

    def _turned_away(self, peer: PeerId) -> None:
        if self._views.remove(peer):
            self._tree.remove(peer)
        self._views.avoid(peer, self._now)
        self._outputs.append(Close(peer))
        self._fill()

    def _lose(self, peer: PeerId) -> None:
        was_active = self._views.remove(peer)
        self._views.avoid(peer, self._now, LOST_AVOID_S if was_active else limits.GOSSIP_AVOID_S)
        self._tree.remove(peer)
        self._fill()

    def _cut_off(self, peer: PeerId) -> None:
        self.counts["cut_off"] += 1
        self._views.cut_off(peer, self._now)
        self._views.remove(peer)
        self._tree.remove(peer)
        self._outputs.append(Close(peer))
        self._fill()

    def _dismiss(self, peer: PeerId | None) -> None:
        if peer is not None:
            self._views.remove(peer)
            self._tree.remove(peer)
            self._views.avoid(peer, self._now)
            self._outputs.append(Close(peer))

    def _shuffle(self) -> None:
        self._views.shuffle(self._now)
        self._dismiss(self._views.surplus())

    # Bundles ------------------------------------------------------------------------------------------------------

    def _take(self, peer: PeerId, push: Push, rates: PeerRates) -> None:
        id_ = wire.id_of(push.body)
        if author := self._author_of(id_):
            self.counts["duplicate"] += 1
            self._send_all(self._tree.duplicate(push, author, peer))
            return
        if self._intake.is_refused(id_, self._now):
            return
        is_own = self._own.encode() in push.body[:AUTHOR_WITHIN_BYTES]
        said = self._voice.said(self._wall_ms) if is_own else []
        bundle, news = self._intake.take(push, id_, rates, self._now, self._wall_ms)
        if not news:
            return
        self._send_all(self._tree.spread(push, id_, bundle.author, peer, self._now))
        self._outputs += map(Deliver, news)
        if bundle.author == self._own:
            self._spread(self._voice.hear_own(bundle, news, said, self._now, self._wall_ms))
            self.counts["contested"] = self._voice.contested

    def _author_of(self, id_: BundleId) -> PeerId | None:
        """Of a bundle that is or was here."""
        known = self._table.bundles.get(id_) or self._tree.seen(id_)
        return known.author if known else None

    def _grafted(self, peer: PeerId, ids: list[BundleId], rates: PeerRates, is_here: bool) -> None:
        for author in {author: None for id_ in ids if (author := self._author_of(id_))}:
            self._tree.grafted(author, peer)
        if not is_here:
            self._push(peer, ids, rates, hops=1)

    def _spread(self, sealed: list[Sealed]) -> None:
        """Own bundles."""
        for each in sealed:
            self.counts["sealed"] += 1
            self._outputs += map(Deliver, each.news)
            self._send_all(self._tree.spread(each.push, each.id, self._own, self._own, self._now))

    def _push(self, peer: PeerId, ids: list[BundleId], rates: PeerRates, hops: int | None = None) -> None:
        """Bundles that were asked for, as far as they are here and the neighbour's rate goes."""
        left_bytes = limits.GOSSIP_REPAIR_BYTES_MAX
        here = [kept for id_ in ids if (kept := self._table.bundles.get(id_))]
        # Records first: nothing else of an author is taken where it is not known as a member yet.
        for kept in sorted(here, key=lambda each: not each.has_record):
            left_bytes -= len(kept.body)
            if left_bytes < 0 or not rates.bytes.take(len(kept.body), self._now):
                self._repair_soon(peer)
                return
            self._send(peer, Push(hops or wire.HOPS_REPAIRED, kept.body, kept.signature))

    def _announced(self, peer: PeerId, have: wire.Have) -> None:
        ids = wire.split_ids(have.ids)
        if len(ids) != len(have.hops):
            raise Malformed("an announcement without hops")
        unknown = [id_ for id_ in ids if self._is_wanted(id_)]
        self._send_all(self._tree.announced(have, peer, unknown, self._now))

    def _is_wanted(self, id_: BundleId) -> bool:
        return not (
            id_ in self._table.bundles or self._tree.is_recent(id_) or self._intake.is_refused(id_, self._now)
        )

    # Repair -------------------------------------------------------------------------------------------------------

    def _repair(self, peer: PeerId, message: wire.Digest | wire.Listing, rates: PeerRates) -> None:
        if isinstance(message, wire.Digest):
            listing, is_cut = listing_for(message, self._table.bundles)
            if is_cut:
                self._repair_soon(peer)
            if listing is not None:
                self._send(peer, listing)
            return
        wanted, lacking = compare(message, self._table.bundles, self._is_wanted)
        if wanted:
            self._send(peer, wire.Want(wire.join_ids(wanted)))
        self._push(peer, lacking, rates)

    def _repair_pause_s(self) -> float:
        return limits.GOSSIP_REPAIR_S * (0.75 + self._draw.fraction() / 2)

    def _repair_soon(self, peer: PeerId) -> None:
        self._repair_at = min(self._repair_at, self._now + limits.GOSSIP_REPAIR_MORE_S)
        self._repair_with = peer

    def _begin_repair(self) -> None:
        self._repair_at = self._now + self._repair_pause_s()
        self._intake.sweep(self._own, self._now, self._wall_ms)
        self._voice.sweep()
        peer, self._repair_with = self._repair_with, None
        if peer not in self._views.active and self._views.active:
            peer = self._draw.one(list(self._views.active))
        if peer in self._views.active:
            self._send(peer, digest_of(self._table.bundles))

    # Time and sending ---------------------------------------------------------------------------------------------

    def _ring(self) -> None:
        self._spread(self._voice.ring(self._now, self._wall_ms))
        if self._tree.deadline <= self._now:
            self._send_all(self._tree.ring(self._now))
        if self._repair_at <= self._now:
            self._begin_repair()
        for peer in self._views.silent(self._now):
            self._dismiss(peer)
        if self._views.shuffle_at <= self._now:
            self._shuffle()
        self._fill()

    def _send(self, peer: PeerId, message: GossipMessage) -> None:
        self._outputs.append(Send((peer,), message))

    def _send_all(self, sent: list[Sent]) -> None:
        self._outputs += [Send(peers, message) for peers, message in sent]


def _cost(message: GossipMessage) -> tuple[int, int]:
    """Bytes, and ids to look up."""
    match message:
        case Push(_, body, _):
            return len(body), 0
        case wire.Have(ids, _) | wire.Graft(ids, _) | wire.Want(ids) | wire.Listing(_, _, ids):
            return len(ids), len(ids) // wire.ID_BYTES
        case wire.Digest(sums):
            return len(sums), 0
        case _:
            return 0, 0
