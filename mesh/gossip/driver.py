"""`Gossip`: the machine of this package over a network and a clock.

gossip = Gossip(network, network_id, clock, randomness, identity, is_member, validators)
await nursery.start(gossip.run)
gossip.set_candidates(members believed alive)
gossip.publish(Topic.HEALTH, "", body, ttl_s=30)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import assert_never

import structlog
import trio

from mesh.admission.signatures import IsStatement, Signer, is_statement_of, sign_statement
from mesh.feed import Feed, Subscription
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
from mesh.gossip.intake import Rules, Validator
from mesh.gossip.links import Link, Turn
from mesh.gossip.machine import Machine
from mesh.rpc import Channel, accepting, deadline, dial
from protocols import limits, streams
from protocols.errors import Malformed, RemoteFault, Unavailable
from protocols.frame import encode_frame
from protocols.gossip import GOSSIP_CODEC, GossipMessage, Heard, Join, Topic, bundle_domain
from protocols.ids import NetworkId, PeerId, shortened
from protocols.seams import Clock, Network, Randomness

log = structlog.get_logger()


class Gossip:
    """What all members say, here. `validators` raise `RemoteFault` for words that must not be believed or passed on.

    They and `is_member` are asked in the middle of an event, so they must answer at once and not publish.
    """

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        clock: Clock,
        randomness: Randomness,
        signer: Signer,
        is_member: Callable[[PeerId], bool],
        validators: Mapping[Topic, Validator],
        is_statement: IsStatement = is_statement_of,
    ) -> None:
        self._network = network
        self._network_id = network_id
        self._clock = clock
        domain = bundle_domain(network_id)
        rules = Rules(
            lambda author, body, signature: is_statement(author, domain, body, signature),
            is_member,
            validators,
        )
        self._machine = Machine(network.peer, partial(sign_statement, signer, domain), rules, randomness)
        self._feeds: dict[Topic, Feed[Heard]] = {topic: Feed() for topic in Topic}
        self._links: dict[PeerId, Link] = {}
        self._unwritten: dict[Link, None] = {}
        self._to_open: list[Link] = []
        self._asleep = trio.CancelScope()
        self._turn = Turn()
        self._told = 0

    # What the rest of the node uses -------------------------------------------------------------------------------

    def publish(self, topic: Topic, key: str, body: bytes, ttl_s: float) -> None:
        """This node's newest word under (topic, key), for `ttl_s`; b"" withdraws it. Said within 50 ms, in one bundle with
        what else is. Raises `LocalFault` for more than gossip carries."""
        self._handle(Publish(topic, key, body, ttl_s))

    def items(self, topic: Topic) -> tuple[Heard, ...]:
        """The newest of every (author, key) that has neither expired nor been withdrawn, own ones included."""
        return self._machine.items(topic, self._wall_ms())

    def subscribe(self, topic: Topic) -> Subscription[Heard]:
        """All that is new from this call on, withdrawals (with an empty body) and own words included.

        A reader that is ended with `Overloaded` can subscribe anew and read `items`: they are all that counts.
        """
        return self._feeds[topic].subscribe()

    def set_candidates(self, peers: Collection[PeerId]) -> None:
        """Members believed alive: neighbours are chosen from them."""
        self._handle(Candidates(tuple(sorted(peers))))

    @property
    def neighbours(self) -> tuple[PeerId, ...]:
        return self._machine.neighbours

    @property
    def counts(self) -> Counter[str]:
        """How often what happened since the start: bundles and words taken, duplicates, and each kind of refusal."""
        return self._machine.counts

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Gossip until cancelled; the network must be running."""
        self._network.handle(
            streams.GOSSIP, accepting(streams.GOSSIP, GOSSIP_CODEC, self._network_id, self._serve)
        )
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                await self._tend(nursery)
        finally:
            for feed in self._feeds.values():
                feed.close()

    # The machine --------------------------------------------------------------------------------------------------

    async def _tend(self, nursery: trio.Nursery) -> None:
        while True:
            self._handle(Alarm())
            links, self._to_open = self._to_open, []
            for link in links:
                nursery.start_soon(self._open, link)
            self._asleep = trio.CancelScope(deadline=self._machine.deadline)
            with self._asleep:
                await trio.sleep_forever()

    def _handle(self, event: Event) -> None:
        self._take(event)
        self._flush()

    def _take(self, event: Event) -> None:
        """What is to be sent waits for `_flush`, so that it goes out as one."""
        self._perform(self._machine.handle(event, trio.current_time(), self._wall_ms()))
        if self._to_open:
            self._asleep.cancel()
        elif (rings_at := self._machine.deadline) < self._asleep.deadline:
            self._asleep.deadline = rings_at  # which costs less than waking whoever sleeps

    def _flush(self) -> None:
        if self._unwritten:
            links, self._unwritten = self._unwritten, {}
            for link in links:
                link.flush()

    def _wall_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def _perform(self, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case Send(peers, message):
                    self._send(peers, message)
                case Deliver(heard):
                    self._feeds[heard.topic].tell(heard)
                    self._told += 1
                case Open(peer):
                    self._to_open.append(self._links.setdefault(peer, Link(peer, is_ours=True)))
                case Close(peer):
                    if link := self._links.pop(peer, None):
                        link.end()
                case _:
                    assert_never(output)

    def _send(self, peers: tuple[PeerId, ...], message: GossipMessage) -> None:
        frame = encode_frame(GOSSIP_CODEC.encode(message), streams.GOSSIP.limit_bytes)
        for peer in peers:
            if link := self._links.get(peer):
                link.send(frame)
                self._unwritten[link] = None

    # Links --------------------------------------------------------------------------------------------------------

    async def _open(self, link: Link) -> None:
        is_open = False
        try:
            async with dial(
                self._network, link.peer, streams.GOSSIP, GOSSIP_CODEC, self._network_id
            ) as channel:
                is_open = True
                if self._links.get(link.peer) is link:
                    self._handle(Opened(link.peer))
                    await self._run(link, channel)
        except (Unavailable, RemoteFault) as error:
            log.debug("a gossip link has ended", peer=shortened(link.peer), reason=str(error))
            # One of the two not letting the other in breaks no rule of gossip, and is over when a clock is set.
            self._forget(link, error if is_open else None)
        else:
            self._forget(link, None)

    async def _serve(self, channel: Channel[GossipMessage]) -> None:
        """A stream that a member opened. Raises `Unavailable` for one that is not wanted."""
        peer = channel.peer
        with deadline(limits.HELLO_S, f"{peer} opens a gossip stream and says nothing"):
            first = await channel.receive()
        if not isinstance(first, Join):
            raise Malformed("gossip begins with Join", peer)
        if self._machine.is_cut_off(peer, trio.current_time()):
            raise Unavailable("no gossip with a peer that broke the rules")
        if known := self._links.get(peer):
            if known.is_ours and known.is_fresh and self._network.peer < peer:
                raise Unavailable("the stream that this node opens at the same time stays")
            self._forget(known, None)  # the peer has lost its end of it
            known.drop()
        link = self._links[peer] = Link(peer, is_ours=False)
        self._handle(Received(peer, first))
        try:
            await self._run(link, channel)
        except (Unavailable, RemoteFault) as error:
            self._forget(link, error)
            raise
        else:
            self._forget(link, None)

    async def _run(self, link: Link, channel: Channel[GossipMessage]) -> None:
        def hear(message: GossipMessage) -> int:
            link.confirm()
            if self._links.get(link.peer) is not link:
                return 0
            told = self._told
            self._take(Received(link.peer, message))
            return self._told - told

        await link.run(channel, hear, self._flush, self._turn)

    def _forget(self, link: Link, error: Exception | None) -> None:
        """The link is over; whatever of it the machine did not end itself is told."""
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._handle(Misbehaved(link.peer) if isinstance(error, RemoteFault) else Lost(link.peer))
