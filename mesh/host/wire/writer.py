"""The writing half of a muxer: what is next goes out as long as the socket takes it, and the rest when it can.

Whoever has something to send writes by itself; the writer's own task goes on where the socket was full, and sends answers
that nobody has taken along. Nothing is awaited between asking the machines and handing their frames to the socket, so there
is no lock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio
from libp2p.io.exceptions import ConnectionClosedError

from mesh.host.wire.framing import SecureConnection
from mesh.host.wire.outbox import Outbox, Parcel
from mesh.host.wire.substream import Substream
from mesh.host.wire.yamux import Yamux
from protocols import limits

JOINED_BYTES: Final = 8192  # up to here a copy costs less than a Noise frame of its own
BATCH_BYTES: Final = limits.WIRE_CHUNK_BYTES
FAREWELL_S: Final = 1.0


class Writer:
    """`tell_sent` hears of every stream of which a parcel was taken whole."""

    def __init__(
        self, secured: SecureConnection, machine: Yamux, tell_sent: Callable[[Substream], None]
    ) -> None:
        self._secured = secured
        self._machine = machine
        self._tell_sent = tell_sent
        self._outbox = Outbox()
        self._idle = trio.lowlevel.ParkingLot()

    def post(self, parcel: Parcel) -> None:
        """Send it now, or have it sent when its turn comes."""
        self._outbox.add(parcel)
        self.write_now()

    def withdraw(self, parcel: Parcel) -> None:
        self._outbox.withdraw(parcel)

    def cut(self, substream: Substream) -> bool:
        """Withdraw what somebody still waits for. Whether anything is left that goes out before the stream's end."""
        return self._outbox.cut(substream)

    def drop(self, substream: Substream) -> None:
        self._outbox.drop(substream)

    def offer(self, substream: Substream) -> None:
        """Its credit may have grown; to be followed by `write_now`."""
        self._outbox.offer(substream)

    @property
    def has_data(self) -> bool:
        """That may be sent now."""
        return self._outbox.has_something

    def has_parcels(self, substream: Substream) -> bool:
        return self._outbox.has_parcels(substream)

    def is_free(self, substream: Substream) -> bool:
        """Whether nothing of that stream waits, and nothing at all for the socket."""
        return not (self._secured.is_blocked or self._outbox.has_parcels(substream))

    def write_now(self) -> None:
        """As much as the socket takes and one turn allows; the writer's task does the rest."""
        if not self._drain():
            self._idle.unpark_all()

    def write_soon(self) -> None:
        """When others have had a turn, who may have something that goes along."""
        self._idle.unpark_all()

    async def run(self) -> None:
        """Returns when the connection has ended."""
        secured = self._secured
        with suppress(ConnectionClosedError):
            while not secured.is_closed:
                if secured.is_blocked:
                    await secured.flush()
                elif self._drain():
                    await self._idle.park()
                else:
                    await trio.lowlevel.checkpoint()

    async def finish(self) -> None:
        """The machine's last answers, after what had been begun; not while `run` does."""
        with trio.move_on_after(FAREWELL_S), suppress(ConnectionClosedError):
            await self._secured.flush()
            self._drain()
            await self._secured.flush()

    def _drain(self) -> bool:
        """Write for one turn. Whether nothing that may be sent is left."""
        secured, left_bytes = self._secured, limits.WIRE_TURN_BYTES
        while not (secured.is_blocked or secured.is_closed):
            if left_bytes <= 0:
                return False
            parts, size_bytes = self._batch()
            if not parts:
                return True
            secured.send_now(parts)
            left_bytes -= size_bytes
            if self._outbox.finished:
                self._tell_finished()
        return False

    def _batch(self) -> tuple[list[bytearray | memoryview], int]:
        """What goes into one write: answers, then the most urgent chunks; large ones as they lie in their owner's memory."""
        machine, outbox = self._machine, self._outbox
        parts: list[bytearray | memoryview] = []
        joined, machine.answers = machine.answers, bytearray()
        size_bytes = len(joined)
        while size_bytes < BATCH_BYTES and (taken := outbox.take()) is not None:
            substream, chunk = taken
            joined += machine.head_of(substream, len(chunk))
            size_bytes += len(chunk)
            if len(chunk) <= JOINED_BYTES:
                joined += chunk
            else:
                parts += (joined, chunk)
                joined = bytearray()
        if joined:
            parts.append(joined)
        return parts, size_bytes

    def _tell_finished(self) -> None:
        finished, self._outbox.finished = self._outbox.finished, []
        for substream in finished:
            self._tell_sent(substream)
