"""The connection before and after the handshake: exact reads, and Noise transport frames.

A frame is two bytes of length and at most 65,535 bytes of ciphertext, as every Noise transport has it. Reads take whatever
the socket has and decrypt all whole frames in it, so that a reader above pays one system call for many frames, and never
gives up because data came in small pieces as libp2p's `read_exactly` does after a hundred of them. Writes are encrypted from
the caller's memory into what goes to the socket.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio
from cryptography.exceptions import InvalidTag
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError, IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from multiaddr import Multiaddr

from mesh.host.wire.cipher import TAG_BYTES, Cipher
from mesh.host.wire.pipe import READ_BYTES, pipe_of
from protocols.errors import Disconnected

FRAME_BYTES_MAX: Final = 65_535
PLAIN_BYTES_MAX: Final = FRAME_BYTES_MAX - TAG_BYTES
STALLED_WRITE_S: Final = 10.0  # a peer that takes no byte of a frame for this long is gone

RAW_ERRORS: Final = (
    IOException,
    RawConnError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
"""Every way in which a libp2p raw connection says that it has ended."""


class RawWire:
    """Exact reads from a raw connection, for what precedes the encrypted frames. Raises `Disconnected`."""

    def __init__(self, raw: IRawConnection) -> None:
        self.raw = raw
        self.pending = bytearray()

    async def read_exactly(self, count: int) -> bytes:
        while len(self.pending) < count:
            try:
                chunk = await self.raw.read(READ_BYTES)
            except RAW_ERRORS as error:
                raise Disconnected("the connection broke") from error
            if not chunk:
                raise Disconnected("the other side closed the connection")
            self.pending += chunk
        data = bytes(self.pending[:count])
        del self.pending[:count]
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self.raw.write(data)
        except RAW_ERRORS as error:
            raise Disconnected("the connection broke") from error


class Altered(ConnectionClosedError):
    """A frame is not what the other side has sent."""


# One for all connections: nothing is awaited between filling it and having sent or copied what is in it.
_SEALED: Final = memoryview(bytearray(256 << 10))


class SecureConnection(BaseSession):
    """An encrypted connection. libp2p takes `read(n)`, exactly n bytes, and `write`; the muxer `receive` and `send_now`.

    `rekey_frames` as both sides have agreed by their protocol id, 0 for never. `on_closed` is called once, as soon as this
    side knows that the connection has ended.
    """

    negotiated_security_protocol: str
    shown: bytes = b""  # by the other side in the handshake, to prove its membership

    def __init__(
        self,
        wire: RawWire,
        *,
        key_out: bytes,
        key_in: bytes,
        local_key: PrivateKey,
        remote: ID,
        remote_static: PublicKey,
        rekey_frames: int = 0,
    ) -> None:
        super().__init__(
            local_peer=ID.from_pubkey(local_key.get_public_key()),
            local_private_key=local_key,
            remote_peer=remote,
            remote_permanent_pubkey=remote_static,
            is_initiator=wire.raw.is_initiator,
        )
        self._raw = wire.raw
        self._pipe = pipe_of(wire.raw)
        self._sealing, self._opening = Cipher(key_out, rekey_frames), Cipher(key_in, rekey_frames)
        self._early = bytes(wire.pending)  # came with the handshake, and may hold whole frames
        self._partial = b""
        self._plain = bytearray()
        self._unsent = b""
        self.is_closed = False
        self.on_closed: Callable[[], None] = lambda: None

    # Reading -----------------------------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, or what there is; raises libp2p's `IncompleteReadError` or `ConnectionClosedError`."""
        wanted = 1 if n is None else n
        while len(self._plain) < wanted:
            opened = await self._receive_frames()
            if not opened:
                raise IncompleteReadError("the connection ended", wanted, len(self._plain))
            for plain in opened:
                self._plain += plain
        if n is None:
            n = len(self._plain)
        data = bytes(self._plain[:n])
        del self._plain[:n]
        return data

    async def receive(self) -> Sequence[bytes]:
        """What all frames hold that have arrived, at least one; none at the end. Raises `ConnectionClosedError`."""
        if self._plain:
            early = bytes(self._plain)
            self._plain.clear()
            return (early,)
        return await self._receive_frames()

    async def _receive_frames(self) -> Sequence[bytes]:
        if self._early:
            early, self._early = self._early, b""
            if opened := self._open_frames(memoryview(early)):
                return opened
        while True:
            try:
                arrived = await self._pipe.receive(self._partial)
            except RAW_ERRORS as error:
                raise ConnectionClosedError("the connection broke") from error
            if arrived is None:
                return ()
            if opened := self._open_frames(arrived):
                return opened

    def _open_frames(self, arrived: memoryview) -> list[bytes]:
        """Decrypt every whole frame that has arrived; anything that was altered ends the connection."""
        opened: list[bytes] = []
        start, end = 0, len(arrived)
        while end - start >= 2:
            stop = start + 2 + (arrived[start] << 8 | arrived[start + 1])
            if stop > end:
                break
            try:
                opened.append(self._opening.open(arrived[start + 2 : stop]))
            except (InvalidTag, ValueError) as error:
                raise Altered("a frame was altered on the way") from error
            start = stop
        self._partial = bytes(arrived[start:])
        return opened

    # Writing -----------------------------------------------------------------------------------------------------------

    @property
    def is_blocked(self) -> bool:
        """Whether something sealed still waits for the socket: then `flush` it before more is sent."""
        return bool(self._unsent)

    def send_now(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Seal all of it, one after the other, and send what the socket takes at once; the rest is for `flush`."""
        assert not self._unsent
        if self.is_closed:
            return
        sealed = self._seal(parts)
        try:
            sent = self._pipe.send_now(sealed)
        except RAW_ERRORS:
            self.give_up()
        else:
            if sent < len(sealed):
                self._unsent = bytes(sealed[sent:])

    def _seal(self, parts: Sequence[bytes | bytearray | memoryview]) -> memoryview:
        """Valid until something is awaited."""
        needed = sum(len(part) + (2 + TAG_BYTES) * (len(part) // PLAIN_BYTES_MAX + 1) for part in parts)
        sealed = _SEALED if needed <= len(_SEALED) else memoryview(bytearray(needed))
        at = 0
        for part in parts:
            plain = memoryview(part)
            for start in range(0, len(plain), PLAIN_BYTES_MAX):
                chunk = plain[start : start + PLAIN_BYTES_MAX]
                length = len(chunk) + TAG_BYTES
                sealed[at] = length >> 8
                sealed[at + 1] = length & 255
                at += 2 + length
                self._sealing.seal_into(chunk, sealed[at - length : at])
        return sealed[:at]

    async def flush(self) -> None:
        """Wait until the socket has taken everything. Raises `ConnectionClosedError` if the connection has ended, or takes
        nothing for `STALLED_WRITE_S`. May be cancelled, and is then to be called again."""
        while self._unsent and not self.is_closed:
            with trio.move_on_after(STALLED_WRITE_S) as patience:
                try:
                    sent = await self._pipe.send(self._unsent)
                except RAW_ERRORS as error:
                    raise ConnectionClosedError("the connection broke") from error
                self._unsent = self._unsent[sent:]
            if patience.cancelled_caught:
                await self.close()
                raise ConnectionClosedError("the peer takes no data")
        if self.is_closed:
            raise ConnectionClosedError("this side closed the connection")

    async def write(self, data: bytes) -> None:
        """Returns when the socket has taken all of it; raises what `flush` raises. What was begun when the caller is
        cancelled goes out before the next write, so that no frame is ever cut off."""
        await self.flush()
        self.send_now((data,))
        await self.flush()

    # The end -----------------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """From now on it counts as closed; `close` lets go of the socket."""
        if not self.is_closed:
            self.is_closed = True
            self.on_closed()

    async def close(self) -> None:
        """Idempotent; wakes whoever reads or writes."""
        self.give_up()
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._raw.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._raw.get_connection_type()
