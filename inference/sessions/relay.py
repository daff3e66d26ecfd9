"""The data plane of sessions: one long-lived stream per peer, direction and class carries the frames of all sessions.

Frames flow one way, credits the other. A frame is only sent while its stage has given credit for it, so nobody buffers
more than `CREDITS_PER_SESSION` frames for a session. A frame that was begun is sent whole, whoever is cancelled meanwhile,
because half of one would end the stream for all sessions. When a stream breaks, everybody who sent over it is told. To a
stage of this very node no stream leads: its frames are handed over as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from mesh.nursery import peer_nursery
from mesh.rpc import Channel, accepting, deadline
from protocols import limits, streams
from protocols.errors import Disconnected, RemoteFault, Unavailable
from protocols.ids import NetworkId, PeerId, SessionId, shortened
from protocols.seams import Network
from protocols.session import CREDIT_CODEC, Credit
from protocols.streams import StreamKind
from protocols.tensor import HEADER_BYTES, Frame, Kind, decode_preamble, decode_rest, encode_prefix

GiveBack = Callable[[int, int], None]
"""Return credits, by epoch and number, to whoever sent the frame that this came with."""

Deliver = Callable[[Frame, GiveBack], None]
"""Take a frame in; must not wait."""

StageKey = tuple[SessionId, int]

JOINED_BYTES_MAX: Final = 64 * limits.KIB  # larger bodies are sent as they lie, uncopied


@dataclass(slots=True)
class Outlet:
    """The right to send to one stage of one session in one epoch. One task sends on it."""

    relay: Relay
    peer: PeerId
    session: SessionId
    stage: int
    epoch: int
    credits: int = limits.CREDITS_PER_SESSION
    used: set[StreamKind] = field(default_factory=set)
    _is_broken: bool = False
    _changed: trio.Event = field(default_factory=trio.Event)

    async def send(self, frame: Frame) -> None:
        """Wait for credit, then send; raises `Unavailable` if the peer is out of reach or the stream breaks."""
        while not self.credits and not self._is_broken:
            self._changed = trio.Event()
            await self._changed.wait()
        if not self.send_nowait(frame):
            self.credits -= 1
            await self.relay.send(self, frame)

    def send_nowait(self, frame: Frame) -> bool:
        """Whether it was sent, without waiting for anything; raises as `send` does."""
        if self._is_broken:
            raise Disconnected(f"the activation stream to {shortened(self.peer)} broke")
        if not self.credits:
            return False
        self.credits -= 1  # first, since one that is handed over may give it back at once
        is_sent = self.relay.send_nowait(self, frame)
        self.credits += not is_sent
        return is_sent

    def receive_credit(self, frames: int) -> None:
        # Never more than there were at first: a peer can't talk this node into flooding it.
        self.credits = min(self.credits + frames, limits.CREDITS_PER_SESSION)
        self._changed.set()

    def mark_broken(self) -> None:
        self._is_broken = True
        self._changed.set()

    def close(self) -> None:
        self.relay.forget(self)


@dataclass(slots=True)
class _Writing:
    """A frame on its way into a stream; `ended` is set whether or not it was `written`."""

    prefix: bytes
    body: bytes | bytearray | memoryview
    written: bool = False
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def parts(self) -> tuple[bytes | bytearray | memoryview, ...]:
        # Each part is a write of its own, with its own encryption and wake-up: a small body is copied behind its prefix.
        if len(self.body) <= JOINED_BYTES_MAX:
            return (b"".join((self.prefix, self.body)),)
        return self.prefix, self.body


class _Link:
    """One outbound stream to a peer, and the task that writes to it."""

    def __init__(self, channel: Channel[Credit]) -> None:
        self.channel = channel
        self._waiting, self._turn = trio.open_memory_channel[_Writing](0)

    def send_nowait(self, frame: Frame) -> bool:
        """Whether the stream took it at once. Raises `Disconnected` if it is broken."""
        if len(frame.body) > JOINED_BYTES_MAX:
            return False
        return self.channel.send_raw_nowait(b"".join((encode_prefix(frame), frame.body)))

    async def send(self, frame: Frame) -> None:
        """Raises `Disconnected` if the stream breaks before the frame is written."""
        writing = _Writing(encode_prefix(frame), frame.body)
        with suppress(trio.BrokenResourceError):
            await self._waiting.send(writing)
            await writing.ended.wait()
        if not writing.written:
            raise Disconnected(f"the activation stream to {shortened(self.channel.peer)} broke")

    async def write(self) -> None:
        """Raises what ends the stream."""
        async with self._turn:
            async for writing in self._turn:
                try:
                    patience_s = _patience_s(len(writing.prefix) + len(writing.body))
                    with deadline(patience_s, f"{self.channel.peer} takes no activations"):
                        await self.channel.send_raw(*writing.parts)
                    writing.written = True
                finally:
                    writing.ended.set()

    async def give_up(self) -> None:
        with trio.move_on_after(1, shield=True):
            await self.channel.stream.reset()


class Relay:
    """All activation streams of this node."""

    def __init__(self, network: Network, network_id: NetworkId) -> None:
        self._network = network
        self._network_id = network_id
        self._stages: dict[StageKey, Deliver] = {}
        self._outlets: dict[tuple[PeerId, SessionId, int, int], Outlet] = {}
        self._links: dict[tuple[PeerId, StreamKind], _Link] = {}
        self._opening: dict[tuple[PeerId, StreamKind], trio.Lock] = {}
        self._nursery: trio.Nursery | None = None
        for kind in (streams.DECODE, streams.PREFILL):
            network.handle(kind, accepting(kind, CREDIT_CODEC, network_id, self._receive))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # Receiving

    def register(self, session: SessionId, stage: int, deliver: Deliver) -> None:
        """Hand frames for that stage to `deliver` until `unregister`; frames for unknown stages are dropped."""
        self._stages[session, stage] = deliver

    def unregister(self, session: SessionId, stage: int, deliver: Deliver) -> None:
        if self._stages.get((session, stage)) is deliver:
            del self._stages[session, stage]

    async def _receive(self, channel: Channel[Credit]) -> None:
        returned, to_return = trio.open_memory_channel[Credit](1024)
        async with peer_nursery() as nursery:
            nursery.start_soon(_return_credits, channel, to_return)
            try:
                while True:
                    frame = await _receive_frame(channel)
                    self._dispatch(frame, channel, returned)
            except Disconnected:
                nursery.cancel_scope.cancel()

    def _dispatch(
        self, frame: Frame, channel: Channel[Credit], returned: trio.MemorySendChannel[Credit]
    ) -> None:
        header = frame.header
        deliver = self._stages.get((header.session, header.stage))
        if deliver is None:
            return  # of a session that has ended

        def give_back(epoch: int, frames: int) -> None:
            credit = Credit(header.session, header.stage, epoch, frames)
            try:
                if not channel.send_nowait(credit):
                    returned.send_nowait(credit)
            except trio.WouldBlock:
                raise RemoteFault("the sender does not take its credits", channel.peer) from None
            except (Disconnected, trio.BrokenResourceError):
                return  # the stream has ended, and its credits with it

        deliver(frame, give_back)

    # Sending

    def outlet(self, peer: PeerId, session: SessionId, stage: int, epoch: int) -> Outlet:
        """A fresh outlet with full credits; the caller closes it."""
        outlet = Outlet(self, peer, session, stage, epoch)
        self._outlets[peer, session, stage, epoch] = outlet
        return outlet

    def forget(self, outlet: Outlet) -> None:
        self._outlets.pop((outlet.peer, outlet.session, outlet.stage, outlet.epoch), None)

    def send_nowait(self, outlet: Outlet, frame: Frame) -> bool:
        """Whether it was handed over, or taken by a stream that is open."""
        if outlet.peer == self._network.peer:
            self._hand_over(outlet, frame)
            return True
        kind = _class_of(frame)
        link = self._links.get((outlet.peer, kind))
        if link is None:
            return False
        outlet.used.add(kind)
        return link.send_nowait(frame)

    async def send(self, outlet: Outlet, frame: Frame) -> None:
        """Put a frame for another node on the stream of its class, opening it first if need be."""
        kind = _class_of(frame)
        outlet.used.add(kind)
        link = self._links.get((outlet.peer, kind)) or await self._link(outlet.peer, kind)
        await link.send(frame)

    def _hand_over(self, outlet: Outlet, frame: Frame) -> None:
        deliver = self._stages.get((outlet.session, outlet.stage))
        if deliver is None:
            return  # it has ended

        def give_back(epoch: int, frames: int) -> None:
            if epoch == outlet.epoch:
                outlet.receive_credit(frames)

        try:
            deliver(frame, give_back)
        except RemoteFault as error:
            outlet.mark_broken()
            raise Disconnected(f"a stage of this node does not take the rows: {error}") from error

    async def _link(self, peer: PeerId, kind: StreamKind) -> _Link:
        opening = self._opening.setdefault((peer, kind), trio.Lock())
        try:
            async with opening:
                return self._links.get((peer, kind)) or await self._open(peer, kind)
        finally:
            if not opening.locked():
                self._opening.pop((peer, kind), None)

    async def _open(self, peer: PeerId, kind: StreamKind) -> _Link:
        with deadline(limits.DIAL_S + limits.OPEN_STREAM_S, f"no stream to {peer}"):
            stream = await self._network.open_stream(peer, kind)
        if self._nursery is None:
            await stream.reset()
            raise Disconnected("this node is going down")
        link = _Link(Channel(stream, kind, CREDIT_CODEC, self._network_id))
        self._links[peer, kind] = link
        self._nursery.start_soon(self._keep, peer, kind, link)
        return link

    async def _keep(self, peer: PeerId, kind: StreamKind, link: _Link) -> None:
        """All of an outbound stream's life."""
        try:
            async with peer_nursery() as nursery:
                nursery.start_soon(link.write)
                await self._take_credits(peer, link)
        except (Unavailable, RemoteFault):
            pass
        finally:
            self._forget_link(peer, kind, link)
            await link.give_up()

    async def _take_credits(self, peer: PeerId, link: _Link) -> None:
        while True:
            credit = await link.channel.receive()
            if outlet := self._outlets.get((peer, credit.session, credit.stage, credit.epoch)):
                outlet.receive_credit(credit.frames)

    def _forget_link(self, peer: PeerId, kind: StreamKind, link: _Link) -> None:
        if self._links.get((peer, kind)) is link:
            del self._links[peer, kind]
        for outlet in list(self._outlets.values()):
            if outlet.peer == peer and kind in outlet.used:
                outlet.mark_broken()


def _class_of(frame: Frame) -> StreamKind:
    return streams.DECODE if frame.header.kind is Kind.DECODE else streams.PREFILL


async def _receive_frame(channel: Channel[Credit]) -> Frame:
    reader = channel.reader
    preamble = decode_preamble(await reader.read_exactly(HEADER_BYTES))
    rest_bytes = preamble.rest_bytes
    if (rest := reader.take(rest_bytes)) is not None:
        return decode_rest(preamble, rest)
    with deadline(_patience_s(rest_bytes), f"{channel.peer} stopped in a frame"):
        return decode_rest(preamble, await reader.read_exactly(rest_bytes))


def _patience_s(size_bytes: int) -> float:
    return limits.REPLY_S + size_bytes / limits.ACTIVATION_BYTES_PER_S


async def _return_credits(channel: Channel[Credit], to_return: trio.MemoryReceiveChannel[Credit]) -> None:
    async with to_return:
        async for credit in to_return:
            if not channel.send_nowait(credit):
                with deadline(limits.REPLY_S, f"{channel.peer} takes no credits"):
                    await channel.send(credit)
