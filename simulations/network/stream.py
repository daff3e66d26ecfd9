"""One end of a virtual stream: a window of unread bytes, and news from the other end that comes over a wire.

Windows are those of `mesh.host.wire.yamux`: the peer hears that there is room once half of a window was read, and a stream
that is read gets a window of twice the size each time, up to the bound of its priority.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from protocols import limits
from protocols.errors import Disconnected
from protocols.ids import PeerId
from protocols.streams import Priority, StreamKind
from simulations.determinism import parked, wake
from simulations.network.wire import DATA, Wire

SEGMENT_BYTES: Final = limits.WIRE_CHUNK_BYTES
CALLS_PER_TURN: Final = 32  # that need not wait, before other tasks have a turn; as on the real wire


class _Waiting:
    """Tasks that wait for news of a stream: one as a rule, and then far cheaper than a `ParkingLot`."""

    __slots__ = ("tasks",)

    def __init__(self) -> None:
        self.tasks: dict[trio.lowlevel.Task, None] = {}

    async def wait(self) -> None:
        task = trio.lowlevel.current_task()
        self.tasks[task] = None

        def leave(_: object) -> trio.lowlevel.Abort:
            del self.tasks[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await parked(leave)

    def wake(self) -> None:
        if self.tasks:
            tasks, self.tasks = self.tasks, {}
            for task in tasks:
                wake(task)


class VirtualStream:
    """Implements `protocols.seams.Stream`. `twin` is the other end, told of things only through `wire`."""

    __slots__ = (
        "_calls",
        "_failure",
        "_forget",
        "_inbound",
        "_is_closed",
        "_is_ended",
        "_kind",
        "_peer",
        "_read_bytes",
        "_readers",
        "_room_bytes",
        "_was_reset_here",
        "_window_bytes",
        "_wire",
        "_writers",
        "twin",
    )
    twin: VirtualStream

    def __init__(
        self, peer: PeerId, kind: StreamKind, wire: Wire, forget: Callable[[VirtualStream], None]
    ) -> None:
        self._peer = peer
        self._kind = kind
        self._wire = wire
        self._forget = forget
        self._inbound = bytearray()
        self._read_bytes = 0  # that the other end has not been told of
        self._room_bytes = limits.STREAM_WINDOW_BYTES  # that may still be sent
        self._window_bytes = limits.STREAM_WINDOW_BYTES  # that may arrive unread
        self._is_closed = False  # nothing more is sent
        self._is_ended = False  # nothing more arrives
        self._failure: str | None = None
        self._was_reset_here = False
        self._calls = 0
        self._readers = _Waiting()
        self._writers = _Waiting()

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def has_failed(self) -> bool:
        return self._failure is not None

    async def _take_turns(self) -> None:
        """A checkpoint, though not every time: one costs more than the call itself."""
        self._calls += 1
        if self._calls % CALLS_PER_TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    # Sending -----------------------------------------------------------------------------------------------------------

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        await self._take_turns()
        rest = memoryview(data).cast("B")
        while rest:
            self._check_sendable()
            size = min(self._room_bytes, SEGMENT_BYTES, len(rest))
            if not size:
                await self._writers.wait()
                continue
            self._post(rest[:size])
            rest = rest[size:]
        self._check_sendable()

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        self._check_sendable()
        whole = data if isinstance(data, bytes) else memoryview(data).cast("B")
        size_bytes = len(whole)
        if size_bytes > self._room_bytes or self._writers.tasks:
            return False
        if size_bytes <= SEGMENT_BYTES:
            self._post(whole)
            return True
        for start in range(0, size_bytes, SEGMENT_BYTES):
            self._post(whole[start : start + SEGMENT_BYTES])
        return True

    def _post(self, segment: bytes | memoryview) -> None:
        size_bytes = len(segment)
        self._room_bytes -= size_bytes
        self._wire.post(DATA, self.twin.arrive, bytes(segment), size_bytes)

    def _check_sendable(self) -> None:
        if self._failure is not None or self._is_closed:
            raise Disconnected(self._failure or "this side of the stream is closed")

    # Receiving ---------------------------------------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        if self._inbound or self._is_ended or self._failure is not None:
            await self._take_turns()
        while not (self._inbound or self._is_ended or self._failure is not None):
            await self._readers.wait()
        if self._failure is not None and (self._was_reset_here or not self._is_ended):
            raise Disconnected(self._failure)
        data = bytes(self._inbound[:max_bytes])
        del self._inbound[:max_bytes]
        self._read_bytes += len(data)
        if self._read_bytes * 2 >= self._window_bytes and not (self._is_ended or self._failure is not None):
            self._widen()
        return data

    def _widen(self) -> None:
        is_urgent = self._kind.priority is Priority.URGENT
        bound = limits.URGENT_WINDOW_BYTES_MAX if is_urgent else limits.STREAM_WINDOW_BYTES_MAX
        growth = self._window_bytes if 2 * self._window_bytes <= bound else 0
        self._window_bytes += growth
        room, self._read_bytes = self._read_bytes + growth, 0
        self._wire.post("window", self.twin.make_room, room)

    # The end -----------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        if not self._is_closed and self._failure is None:
            self._is_closed = True
            self._wire.post("end", self.twin.end, None)
            self._forget_if_over()

    async def reset(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()
        self.give_up()

    def give_up(self) -> None:
        """What `reset` does."""
        # Once both directions are closed there is nothing to give up, and what was received can still be read.
        if self._failure is None and not (self._is_closed and self._is_ended):
            self._was_reset_here = True
            self._wire.post("reset", self.twin.fail, "the peer reset the stream")
            self.fail("the stream was reset")

    # What the wire brings, and the connection's end ----------------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        if self._failure is None:
            self._inbound += data
            self._readers.wake()

    def make_room(self, size_bytes: int) -> None:
        self._room_bytes += size_bytes
        self._writers.wake()

    def end(self, _: None = None) -> None:
        self._is_ended = True
        self._wake()
        self._forget_if_over()

    def fail(self, reason: str) -> None:
        """A reset. What has arrived is lost with it."""
        if not (self._is_closed and self._is_ended):
            self._inbound.clear()
            self.lose(reason)

    def lose(self, reason: str) -> None:
        """The connection has ended. What the other side had sent before its own end can still be read."""
        if self._is_closed and self._is_ended:
            return
        if not self._is_ended:
            self._inbound.clear()
        self._failure = self._failure or reason
        self._wake()
        self._forget(self)

    def _wake(self) -> None:
        self._readers.wake()
        self._writers.wake()

    def _forget_if_over(self) -> None:
        if self._is_closed and self._is_ended:
            self._forget(self)
