"""Running sessions at their entry node: the driver between the session machine, the stages and whoever asked.

    async with entry.generate(order, claims) as events:
        async for event in events:      # Emit and Recovered, at last Finish or Fail
            ...

Leaving the context early cancels the session on every hop: the streams to the stages end, and with them what they hold.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import assert_never

import trio

from inference.model.precision import wire_of
from inference.sessions import events as e
from inference.sessions.relay import Outlet, Relay
from inference.sessions.session import Session
from mesh.nursery import peer_nursery
from mesh.rpc import Channel, dial
from protocols import limits, streams
from protocols.errors import Overloaded, RemoteFault, Unavailable
from protocols.ids import NetworkId, SessionId, shortened
from protocols.observations import Observe, Outcome, unobserved
from protocols.placement import Claim
from protocols.seams import Network
from protocols.session import SESSION_CODEC, CloseStage, SessionMessage, StageOpened, StageRefused
from protocols.tensor import DType, Frame, Header, Kind, Numerics

SessionEvent = e.Emit | e.Recovered | e.Finish | e.Fail
ORDERS_WAITING_MAX = 2 * limits.FAILOVERS_MAX + 2
STRETCH_TOKENS = 64  # that every stage helped to make without trouble count as served once


class Entry:
    """All sessions that enter at this node; `running` shows them."""

    def __init__(
        self,
        network: Network,
        network_id: NetworkId,
        relay: Relay,
        observe: Observe = unobserved,
        is_gone: e.IsGone = e.nobody_is_gone,
    ) -> None:
        self._network = network
        self._network_id = network_id
        self._relay = relay
        self._observe = observe
        self._is_gone = is_gone
        self.running: dict[SessionId, Session] = {}

    @asynccontextmanager
    async def generate(
        self,
        order: e.Order,
        claims: Sequence[Claim],
        replace: e.Replace,
        last_resort: e.Replace | None = None,
    ) -> AsyncIterator[trio.MemoryReceiveChannel[SessionEvent]]:
        """The session's events while the context is open; raises `Overloaded` at once if too many are running.

        An event is never lost to a failure: `Fail` comes after all that was emitted before it.
        """
        if len(self.running) >= limits.SESSIONS_MAX:
            raise Overloaded(f"{limits.SESSIONS_MAX} sessions are running here: wait for one to end")
        route = [e.Hop(claim.holder, claim.range) for claim in claims]
        session = Session(order, route, replace, last_resort, self._is_gone)
        # Each token is one event, and each failover one per stage: the channel never blocks the session.
        capacity = order.rows_max + limits.FAILOVERS_MAX * len(route) + 1
        outgoing, incoming = trio.open_memory_channel[SessionEvent](capacity)
        drive = _Drive(
            session,
            _FrameShape.of(claims[0]),
            outgoing,
            self._network,
            self._network_id,
            self._relay,
            self._observe,
        )
        self.running[order.session] = session
        try:
            async with incoming, peer_nursery() as nursery:
                nursery.start_soon(drive.run)
                yield incoming
                nursery.cancel_scope.cancel()
        finally:
            del self.running[order.session]


@dataclass(frozen=True, slots=True)
class _FrameShape:
    """How rows go to the first stage."""

    dtype: DType
    numerics: Numerics

    @classmethod
    def of(cls, claim: Claim) -> _FrameShape:
        numerics = Numerics.EXACT if claim.numerics == "exact" else Numerics.FAST
        return cls(wire_of(claim.dtype), numerics)


@dataclass(slots=True)
class _StageLine:
    """The stream to one stage."""

    scope: trio.CancelScope
    orders: trio.MemorySendChannel[SessionMessage]


@dataclass(slots=True)
class _Feeder:
    """Sends rows to the first stage in one epoch; `waiting` feeds are not sent yet."""

    epoch: int
    incarnation: int
    outlet: Outlet
    feeds: trio.MemorySendChannel[e.Feed]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    waiting: int = 0


@dataclass(slots=True)
class _Drive:
    session: Session
    shape: _FrameShape
    outgoing: trio.MemorySendChannel[SessionEvent]
    network: Network
    network_id: NetworkId
    relay: Relay
    observe: Observe
    _stretch: int = 0  # tokens since the stages were last said to have served
    _lines: dict[int, _StageLine] = field(default_factory=dict)
    _feeder: _Feeder | None = None
    _wake_s: float = math.inf
    _watching: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        """Until the session has ended. Whoever hears something has the machine handle it; here rings its alarm."""
        async with self.outgoing, peer_nursery() as nursery:
            self._handle(e.Start(), nursery)
            with self._watching:
                while True:
                    await trio.sleep_until(self._wake_s)
                    # What stages said comes before the alarm, or a pause of this very process would look like theirs.
                    await trio.lowlevel.checkpoint()
                    self._handle(e.Alarm(), nursery)
            self._close(nursery)

    def _handle(self, event: e.Input, nursery: trio.Nursery) -> None:
        for output in self.session.handle(event, trio.current_time()):
            self._act(output, nursery)
        if self.session.phase is e.Phase.DONE:
            self._watching.cancel()

    def _act(self, output: e.Output, nursery: trio.Nursery) -> None:
        match output:
            case e.Open():
                self._open(output, nursery)
            case e.Send(index, message):
                self._send(index, message)
            case e.Feed():
                self._feed(output, nursery)
            case e.Emit() | e.Recovered() | e.Finish() | e.Fail():
                self._note_served(output)
                self.outgoing.send_nowait(output)
            case e.Blame(peer, layers, outcome, reason):
                self._stretch = 0
                session, model = shortened(self.session.order.session), shortened(self.session.order.model)
                self.observe(peer, outcome, f"session {session}, layers {layers} of model {model}: {reason}")
            case e.WakeAt(deadline):
                self._wake_s = deadline
            case _:
                assert_never(output)

    def _note_served(self, output: SessionEvent) -> None:
        """A stretch counts when it is full, or when the session ends well; one that trouble broke off does not."""
        self._stretch += isinstance(output, e.Emit)
        if self._stretch < (1 if isinstance(output, e.Finish) else STRETCH_TOKENS):
            return
        session, model = shortened(self.session.order.session), shortened(self.session.order.model)
        for peer in dict.fromkeys(place.peer for place in self.session.places):
            self.observe(peer, Outcome.SERVED, f"session {session} of model {model}, {self._stretch} tokens")
        self._stretch = 0

    # Stages

    def _open(self, output: e.Open, nursery: trio.Nursery) -> None:
        if output.index in self._lines:
            self._lines[output.index].scope.cancel()
        orders_in, orders = trio.open_memory_channel[SessionMessage](ORDERS_WAITING_MAX)
        line = _StageLine(trio.CancelScope(), orders_in)
        self._lines[output.index] = line
        nursery.start_soon(self._talk, output, line.scope, orders, nursery)

    def _send(self, index: int, message: SessionMessage) -> None:
        # A stage that takes no orders is silent as well, and the machine's watch gives it up.
        try:
            self._lines[index].orders.send_nowait(message)
        except (trio.WouldBlock, trio.BrokenResourceError):
            return

    async def _talk(
        self,
        output: e.Open,
        scope: trio.CancelScope,
        orders: trio.MemoryReceiveChannel[SessionMessage],
        session_nursery: trio.Nursery,
    ) -> None:
        with scope:
            try:
                async with dial(
                    self.network, output.peer, streams.SESSION, SESSION_CODEC, self.network_id
                ) as channel:
                    await channel.send(output.message)
                    async with orders, peer_nursery() as nursery:
                        nursery.start_soon(self._hear, channel, output, session_nursery)
                        async for order in orders:
                            await channel.send(order)
                        nursery.cancel_scope.cancel()
            except (Unavailable, RemoteFault) as error:
                await self._lose(e.Lost(output.index, output.incarnation, str(error)), session_nursery)

    async def _hear(
        self, channel: Channel[SessionMessage], opened: e.Open, session_nursery: trio.Nursery
    ) -> None:
        while True:
            message = await channel.receive()
            if isinstance(message, StageOpened) and channel.minor < opened.minor:
                message = StageRefused(
                    f"it is of an earlier release (protocol 1.{channel.minor}) than the sampling asked for (1.{opened.minor})"
                )
            self._handle(e.Told(opened.index, opened.incarnation, message), session_nursery)

    async def _lose(self, lost: e.Lost, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # of a session that is given up nobody wants to hear
        self._handle(lost, nursery)

    def _close(self, nursery: trio.Nursery) -> None:
        """Tell every stage, for a second at most."""
        if self._feeder:
            self._feeder.scope.cancel()
        for index, line in self._lines.items():
            self._send(index, CloseStage())
            line.orders.close()
        nursery.cancel_scope.deadline = trio.current_time() + 1

    # Rows

    def _feed(self, feed: e.Feed, nursery: trio.Nursery) -> None:
        if self._feeder is None or self._feeder.epoch != feed.epoch:
            if self._feeder:
                self._feeder.scope.cancel()
            # A replay and the row behind it; more only if the last stage answers what it was not asked yet.
            feeds_in, feeds = trio.open_memory_channel[e.Feed](self.session.order.rows_max + 1)
            first = self.session.places[0]
            outlet = self.relay.outlet(first.peer, self.session.order.session, 0, feed.epoch)
            self._feeder = _Feeder(feed.epoch, first.incarnation, outlet, feeds_in)
            nursery.start_soon(self._feed_rows, self._feeder, feeds, nursery)
        if not self._feed_now(self._feeder, feed):
            self._feeder.waiting += 1
            self._feeder.feeds.send_nowait(feed)

    def _feed_now(self, feeder: _Feeder, feed: e.Feed) -> bool:
        """A single row needs no task if nothing is in its way."""
        if feeder.waiting or feed.kind is not Kind.DECODE or len(feed.tokens) != 1:
            return False
        try:
            return all(feeder.outlet.send_nowait(frame) for frame in self._frames(feed))
        except (Unavailable, RemoteFault):
            return False  # the task meets it again, and tells

    async def _feed_rows(
        self,
        feeder: _Feeder,
        feeds: trio.MemoryReceiveChannel[e.Feed],
        nursery: trio.Nursery,
    ) -> None:
        try:
            with feeder.scope:
                async for feed in feeds:
                    for frame in self._frames(feed):
                        await feeder.outlet.send(frame)
                    feeder.waiting -= 1
        except (Unavailable, RemoteFault) as error:
            await self._lose(e.Lost(0, feeder.incarnation, str(error)), nursery)
        finally:
            feeder.outlet.close()

    def _frames(self, feed: e.Feed) -> Iterator[Frame]:
        """The rows cut where attention blocks begin and, in a replay, where the prompt ended."""
        order = self.session.order
        end = feed.position + len(feed.tokens)
        start = feed.position
        while start < end:
            rows_end = min(end, self._cut_behind(start, feed.kind))
            header = Header(
                feed.kind,
                order.session,
                feed.epoch,
                stage=0,
                position=start,
                rows=rows_end - start,
                width=0,
                truncate_to=start,
                numerics=self.shape.numerics,
                dtype=self.shape.dtype,
                sample=feed.sample and rows_end == end,
            )
            yield Frame(header, feed.tokens[start - feed.position : rows_end - feed.position], b"")
            start = rows_end

    def _cut_behind(self, start: int, kind: Kind) -> int:
        prompt_rows = len(self.session.order.prompt)
        if start >= prompt_rows and kind is Kind.REPLAY and self.shape.numerics is not Numerics.EXACT:
            return start + 1  # as they were computed
        block_end = (start // limits.PREFILL_CHUNK_ROWS + 1) * limits.PREFILL_CHUNK_ROWS
        return min(block_end, prompt_rows) if start < prompt_rows else block_end
