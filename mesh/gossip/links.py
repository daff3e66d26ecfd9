"""One link: a stream to a neighbour, with what waits to be written to it.

Frames are queued, never awaited: a neighbour that does not read holds nobody up. When more than `GOSSIP_LINK_BYTES_MAX`
waits, or a write takes longer than `GOSSIP_LINK_S`, the link is given up, and what it missed is repaired over another. What
has gathered while a write was under way goes out as one; a busy link rests `GOSSIP_WRITE_PAUSE_S` between two, an idle one
writes at once. Whoever flushes writes itself if it can; only what has to wait is left to a task.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from mesh.nursery import peer_nursery
from mesh.rpc import Channel, deadline
from protocols import limits
from protocols.errors import Disconnected, Overloaded
from protocols.gossip import GossipMessage
from protocols.ids import PeerId

HEARD_AT_ONCE: Final = (
    64  # messages and words, before other tasks have their turn: readers of the news among them
)

Hear = Callable[[GossipMessage], int]


class Turn:
    """How much all links of a node have heard since other tasks had their turn.

    It is one for all, because many links together could tell more at once than a reader of the news may be behind.
    """

    def __init__(self) -> None:
        self._heard = 0
        self._ending = trio.Lock()

    @property
    def is_over(self) -> bool:
        return self._heard >= HEARD_AT_ONCE

    def count(self, heard: int) -> None:
        self._heard += heard

    async def end(self) -> None:
        """Others come first; returns in the next turn."""
        async with self._ending:
            if self.is_over:
                await trio.lowlevel.checkpoint()
                self._heard = 0


@dataclass(eq=False)
class Link:
    """Made before its stream is there, so that what is said in the meantime waits. `is_ours`: this node opens it."""

    peer: PeerId
    is_ours: bool

    def __post_init__(self) -> None:
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._wake = trio.Event()
        self._channel: Channel[GossipMessage] | None = None
        self._rests_until = -math.inf
        self._fresh_until = math.inf
        self._is_ending = False
        self._is_overfull = False
        self._scope = trio.CancelScope()

    @property
    def is_fresh(self) -> bool:
        """Whether a stream that the peer opened before it knew of this one may still show up."""
        return trio.current_time() < self._fresh_until

    def confirm(self) -> None:
        """The peer has answered; idempotent."""
        if self._fresh_until == math.inf:
            self._fresh_until = trio.current_time() + limits.HELLO_S

    def send(self, frame: bytes) -> None:
        """With the next `flush`. Never waits."""
        if self._is_ending or self._is_overfull:
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        if self._waiting_bytes > limits.GOSSIP_LINK_BYTES_MAX:
            self._is_overfull = True
            self._scope.cancel()

    def flush(self) -> None:
        """Have what waits written, at once if possible. Never waits."""
        if self._waiting and not self._write_now():
            self._wake.set()

    def _write_now(self) -> bool:
        """Whether it went out."""
        now = trio.current_time()
        if self._channel is None or now < self._rests_until:
            return False
        try:
            is_written = self._channel.send_raw_nowait(b"".join(self._waiting))
        except Disconnected:
            return False  # the task meets it again, and ends the link
        if is_written:
            self._written(now)
        return is_written

    def _written(self, now: float) -> None:
        self._waiting, self._waiting_bytes = [], 0
        self._rests_until = now + limits.GOSSIP_WRITE_PAUSE_S

    def end(self) -> None:
        """After what waits has been written; idempotent."""
        self._is_ending = True
        self._wake.set()

    def drop(self) -> None:
        """At once; idempotent. `run` returns."""
        self._scope.cancel()

    async def run(
        self, channel: Channel[GossipMessage], hear: Hear, flush: Callable[[], None], turn: Turn
    ) -> None:
        """Until the link ends here. `hear` tells how much was news, and `flush` is called when all that came was heard; `turn`
        is one for all links of a node.

        Raises `Unavailable` if the other side ends it or does not read, `RemoteFault` for what breaks the rules.
        """
        with self._scope:
            async with peer_nursery() as nursery:
                nursery.start_soon(self._read, channel, hear, flush, turn)
                await self._write(channel)
                nursery.cancel_scope.cancel()
        if self._is_overfull:
            raise Overloaded(f"{self.peer} reads too slowly")

    async def _read(
        self, channel: Channel[GossipMessage], hear: Hear, flush: Callable[[], None], turn: Turn
    ) -> None:
        while True:
            for message in await channel.receive_many():
                while turn.is_over:
                    flush()
                    await turn.end()
                turn.count(1 + hear(message))
            flush()

    async def _write(self, channel: Channel[GossipMessage]) -> None:
        self._channel = channel
        while self._waiting or not self._is_ending:
            if not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            elif trio.current_time() < self._rests_until:
                await trio.sleep_until(self._rests_until)
            elif not self._write_now():
                frames = b"".join(self._waiting)
                self._written(trio.current_time())
                with deadline(limits.GOSSIP_LINK_S, f"{self.peer} reads nothing"):
                    await channel.send_raw(frames)
