"""The data plane of sessions: one long-lived stream per peer, direction and class carries the frames of all sessions.

Frames flow one way, credits the other. A frame is only sent while its stage has given credit for it, so nobody buffers
more than `CREDITS_PER_SESSION` frames for a session. A stream that breaks in the middle of a frame is given up, and
everybody who sent over it is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

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

GiveBack = Callable[[int], None]
"""Return one credit for a frame of that epoch to whoever sent it."""

Deliver = Callable[[Frame, GiveBack], None]
"""Take a frame in; must not wait."""

StageKey = tuple[SessionId, int]


@dataclass(slots=True)
class Outlet:
    """The right to send to one stage of one session in one epoch. One task sends on it."""

    relay: Relay
    peer: PeerId
    session: SessionId
    stage: int
    epoch: int
    credits: int = limits.CREDITS_PER_SESSION
    _is_broken: bool = False
    _changed: trio.Event = field(default_factory=trio.Event)

    async def send(self, frame: Frame) -> None:
        """Wait for credit, then send; raises `Unavailable` if the peer is out of reach or the stream breaks."""
        while not self.credits and not self._is_broken:
            self._changed = trio.Event()
            await self._changed.wait()
        if self._is_broken:
            raise Disconnected(f"the activation stream to {shortened(self.peer)} broke")
        self.credits -= 1
        await self.relay.send(self.peer, frame)

    def receive_credit(self, frames: int) -> None:
        # Never more than there were at first: a peer can't talk this node into flooding it.
        self.credits = min(self.credits + frames, limits.CREDITS_PER_SESSION)
        self._changed.set()

    def mark_broken(self) -> None:
        self._is_broken = True
        self._changed.set()

    def close(self) -> None:
        self.relay.forget(self)


class _Link:
    """One outbound stream to a peer. A frame left unfinished on it makes it useless: it is then reset."""

    def __init__(self, channel: Channel[Credit]) -> None:
        self.channel = channel
        self._turn = trio.Lock()

    async def send(self, frame: Frame) -> None:
        async with self._turn:
            finished = False
            try:
                await self.channel.send_raw(encode_prefix(frame), frame.body)
                finished = True
            finally:
                if not finished:
                    await self.give_up()

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
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

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
                    self._dispatch(frame, returned, channel.peer)
            except Disconnected:
                nursery.cancel_scope.cancel()

    def _dispatch(self, frame: Frame, returned: trio.MemorySendChannel[Credit], peer: PeerId) -> None:
        header = frame.header
        deliver = self._stages.get((header.session, header.stage))
        if deliver is None:
            return  # of a session that has ended

        def give_back(epoch: int) -> None:
            try:
                returned.send_nowait(Credit(header.session, header.stage, epoch, 1))
            except trio.WouldBlock:
                raise RemoteFault("the sender does not take its credits", peer) from None
            except trio.BrokenResourceError:
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

    async def send(self, peer: PeerId, frame: Frame) -> None:
        """Put a frame on the stream of its class, opening it first if need be."""
        kind = streams.DECODE if frame.header.kind is Kind.DECODE else streams.PREFILL
        link = await self._link(peer, kind)
        with deadline(limits.REPLY_S, f"{peer} takes no activations"):
            await link.send(frame)

    async def _link(self, peer: PeerId, kind: StreamKind) -> _Link:
        async with self._opening.setdefault((peer, kind), trio.Lock()):
            link = self._links.get((peer, kind))
            if link is None:
                with deadline(limits.DIAL_S + limits.OPEN_STREAM_S, f"no stream to {peer}"):
                    stream = await self._network.open_stream(peer, kind)
                link = _Link(Channel(stream, kind, CREDIT_CODEC, self._network_id))
                self._links[peer, kind] = link
                assert self._nursery is not None
                self._nursery.start_soon(self._take_credits, peer, kind, link)
            return link

    async def _take_credits(self, peer: PeerId, kind: StreamKind, link: _Link) -> None:
        try:
            while True:
                credit = await link.channel.receive()
                outlet = self._outlets.get((peer, credit.session, credit.stage, credit.epoch))
                if outlet:
                    outlet.receive_credit(credit.frames)
        except (Unavailable, RemoteFault):
            pass
        finally:
            self._forget_link(peer, kind, link)
            await link.give_up()

    def _forget_link(self, peer: PeerId, kind: StreamKind, link: _Link) -> None:
        if self._links.get((peer, kind)) is link:
            del self._links[peer, kind]
        for outlet in list(self._outlets.values()):
            if outlet.peer == peer:
                outlet.mark_broken()


async def _receive_frame(channel: Channel[Credit]) -> Frame:
    preamble = decode_preamble(bytes(await channel.reader.read_exactly(HEADER_BYTES)))
    with deadline(
        math.inf if preamble.rest_bytes == 0 else limits.REPLY_S, f"{channel.peer} stopped in a frame"
    ):
        return decode_rest(preamble, await channel.reader.read_exactly(preamble.rest_bytes))


async def _return_credits(channel: Channel[Credit], to_return: trio.MemoryReceiveChannel[Credit]) -> None:
    async with to_return:
        async for credit in to_return:
            with deadline(limits.REPLY_S, f"{channel.peer} takes no credits"):
                await channel.send(credit)
