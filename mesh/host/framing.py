"""The connection before and after the handshake: exact reads, and Noise transport frames.

A frame is two bytes of length and at most 65,535 bytes of ciphertext, as every Noise transport has it. Reads take whatever
the socket has and decrypt all whole frames in it, so that a reader above pays one system call for many frames, and never
gives up because data came in small pieces as libp2p's `read_exactly` does after a hundred of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError, IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from multiaddr import Multiaddr

from protocols.errors import Disconnected

FRAME_BYTES_MAX: Final = 65_535
TAG_BYTES: Final = 16
PLAIN_BYTES_MAX: Final = FRAME_BYTES_MAX - TAG_BYTES
READ_BYTES: Final = 256 << 10
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


class _Cipher:
    """ChaCha20-Poly1305 with the counting nonce of a Noise cipher state."""

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._count = 0

    def _nonce(self) -> bytes:
        nonce = bytes(4) + self._count.to_bytes(8, "little")
        self._count += 1
        return nonce

    def seal(self, plain: memoryview) -> bytes:
        return self._aead.encrypt(self._nonce(), plain, None)

    def open(self, sealed: memoryview) -> bytes:
        return self._aead.decrypt(self._nonce(), sealed, None)


class SecureConnection(BaseSession):
    """An encrypted connection as libp2p's muxers take it: `read(n)` gives exactly n bytes or raises.

    `on_closed` is called once, as soon as this side knows that the connection has ended.
    """

    negotiated_security_protocol: str

    def __init__(
        self,
        wire: RawWire,
        *,
        key_out: bytes,
        key_in: bytes,
        local_key: PrivateKey,
        remote: ID,
        remote_static: PublicKey,
    ) -> None:
        super().__init__(
            local_peer=ID.from_pubkey(local_key.get_public_key()),
            local_private_key=local_key,
            remote_peer=remote,
            remote_permanent_pubkey=remote_static,
            is_initiator=wire.raw.is_initiator,
        )
        self._raw = wire.raw
        self._sealing, self._opening = _Cipher(key_out), _Cipher(key_in)
        self._wire = wire.pending
        self._plain = bytearray()
        self.is_closed = False
        self.on_closed: Callable[[], None] = lambda: None

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, or what there is; raises libp2p's `IncompleteReadError` or `ConnectionClosedError`."""
        wanted = 1 if n is None else n
        self._open_frames()
        while len(self._plain) < wanted:
            await self._receive(wanted)
        if n is None:
            n = len(self._plain)
        data = bytes(self._plain[:n])
        del self._plain[:n]
        return data

    async def _receive(self, wanted: int) -> None:
        try:
            chunk = await self._raw.read(READ_BYTES)
        except RAW_ERRORS as error:
            raise ConnectionClosedError("the connection broke") from error
        if not chunk:
            raise IncompleteReadError("the connection ended", wanted, len(self._plain))
        self._wire += chunk
        self._open_frames()

    def _open_frames(self) -> None:
        """Decrypt every whole frame that has arrived; anything that was altered ends the connection."""
        start, end = 0, len(self._wire)
        with memoryview(self._wire) as wire:
            while end - start >= 2:
                stop = start + 2 + int.from_bytes(wire[start : start + 2], "big")
                if stop > end:
                    break
                try:
                    self._plain += self._opening.open(wire[start + 2 : stop])
                except InvalidTag as error:
                    raise ConnectionClosedError("a frame was altered on the way") from error
                start = stop
        del self._wire[:start]

    async def write(self, data: bytes) -> None:
        """Raises `ConnectionClosedError` if the connection has ended, or takes nothing for `STALLED_WRITE_S`.

        A frame that has been begun is finished even if the caller is cancelled: half a frame would spoil every stream
        of the connection. Whoever wants to stop a stuck write closes the connection.
        """
        if self.is_closed:
            raise ConnectionClosedError("this side closed the connection")
        sealed = self._seal(data)
        with trio.move_on_after(STALLED_WRITE_S, shield=True) as patience:
            try:
                await self._raw.write(sealed)
            except RAW_ERRORS as error:
                raise ConnectionClosedError("the connection broke") from error
        if patience.cancelled_caught:
            await self.close()
            raise ConnectionClosedError("the peer takes no data")

    def _seal(self, data: bytes) -> bytes:
        sealed = bytearray()
        plain = memoryview(data)
        for start in range(0, len(plain), PLAIN_BYTES_MAX):
            chunk = plain[start : start + PLAIN_BYTES_MAX]
            sealed += (len(chunk) + TAG_BYTES).to_bytes(2, "big")
            sealed += self._sealing.seal(chunk)
        return bytes(sealed)

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
