"""How a raw connection becomes an encrypted and multiplexed one, and with what: XK and yamux, nothing else.

These take the places of py-libp2p's two negotiators. The stock ones read names of any length, log what they like, and offer
whatever is in their tables; a default host's table has plaintext in it. Here the list is one long and not configurable, and
the bytes of the first negotiation go into the handshake's prologue.
"""

from __future__ import annotations

import trio
from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream

from mesh.host.guard import Guard
from mesh.host.handshake import negotiation, noise_xk
from mesh.host.handshake.noise_xk import NoiseXk
from mesh.host.wire.framing import RAW_ERRORS, RawWire, SecureConnection
from mesh.host.wire.muxer import Muxer
from mesh.host.wire.yamux import PROTOCOL_ID as YAMUX_ID
from protocols import limits
from protocols.errors import Disconnected, Malformed, NoRoute
from protocols.ids import PeerId


class XkOnly(SecurityMultistream):
    """Negotiates Noise XK and performs it, all within `HANDSHAKE_S`. Raises libp2p's `HandshakeFailure`."""

    def __init__(self, xk: NoiseXk) -> None:
        super().__init__({TProtocol(noise_xk.PROTOCOL_ID): xk})
        self._xk = xk

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self._secure(conn, PeerId(peer_id.to_base58()))

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._secure(conn, None)

    async def _secure(self, conn: IRawConnection, dialled: PeerId | None) -> SecureConnection:
        wire = RawWire(conn)
        try:
            with trio.fail_after(limits.HANDSHAKE_S):
                secured = await (self._accept(wire) if dialled is None else self._dial(wire, dialled))
        except trio.TooSlowError as error:
            raise HandshakeFailure("the handshake took too long") from error
        except (Disconnected, Malformed, NoRoute) as error:
            raise HandshakeFailure(str(error)) from error
        secured.negotiated_security_protocol = noise_xk.PROTOCOL_ID
        return secured

    async def _dial(self, wire: RawWire, peer: PeerId) -> SecureConnection:
        transcript = await negotiation.propose(wire, noise_xk.PROTOCOL_ID)
        return await self._xk.dial(wire, peer, transcript)

    async def _accept(self, wire: RawWire) -> SecureConnection:
        _, transcript = await negotiation.accept(wire, lambda proposed: proposed == noise_xk.PROTOCOL_ID)
        return await self._xk.accept(wire, transcript)


class YamuxOnly(MuxerMultistream):
    """Negotiates yamux over the encrypted connection, which libp2p would then build its own of whatever `muxer_opt` says.
    Raises libp2p's `MultiselectError`."""

    def __init__(self, guard: Guard) -> None:
        super().__init__({})
        self._guard = guard

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        assert isinstance(conn, SecureConnection)
        wire = _SecureWire(conn)
        try:
            with trio.fail_after(limits.HANDSHAKE_S):
                if conn.is_initiator:
                    await negotiation.propose(wire, YAMUX_ID)
                else:
                    await negotiation.accept(wire, lambda proposed: proposed == YAMUX_ID)
        except (Disconnected, Malformed, NoRoute, trio.TooSlowError) as error:
            raise MultiselectError(f"no muxer was agreed on: {error}") from error
        muxed = Muxer(conn, peer_id, self._guard)
        return self._annotate_connection(muxed, conn, TProtocol(YAMUX_ID))


class _SecureWire:
    """An encrypted connection as negotiation takes it."""

    def __init__(self, conn: ISecureConn) -> None:
        self._conn = conn

    async def read_exactly(self, count: int) -> bytes:
        try:
            return await self._conn.read(count)
        except RAW_ERRORS as error:
            raise Disconnected("the connection ended") from error

    async def write(self, data: bytes) -> None:
        try:
            await self._conn.write(data)
        except RAW_ERRORS as error:
            raise Disconnected("the connection ended") from error
