"""Noise XX as libp2p has it under `/noise`: `Noise_XX_25519_ChaChaPoly_SHA256`, for peers of other kinds alone.

    dialler                                       acceptor
      | -> e                                ---->  |   32 bytes, in the clear
      |  <----         <- e, ee, s, es + identity  |   the dialler checks that it is the peer it meant
      | -> s, se + identity                 ---->  |   the acceptor now knows who it is, and lets anybody in

The payload is libp2p-noise's protobuf: an Ed25519 key and its signature over the static of this handshake. Its extensions
are read over and none are sent, so that the muxer is agreed on by multistream as ever; and there is no rekeying.

XX tells its static to everybody who asks. The static here is therefore another than that of the members' planes, which only
members and the invited know.
"""

from __future__ import annotations

from typing import Final

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from noise.connection import Keypair, NoiseConnection

from mesh.admission.identity import Identity, StaticKey
from mesh.host.foreign.pace import PacedConnection
from mesh.host.handshake.noise import (
    WrongIdentity,
    proof_of,
    proven_peer,
    read_message,
    receive_message,
    send_message,
    write_message,
)
from mesh.host.wire.framing import RawWire
from protocols.ids import PeerId

PROTOCOL_ID: Final = "/noise"
PATTERN: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
OPENING_BYTES: Final = 32  # an ephemeral key
MESSAGE_BYTES_MAX: Final = 2048  # about 220, and as much again for whatever extensions a peer sends


class NoiseXx:
    """The handshake in both roles, with `static`, which nothing else uses. Both raise `HandshakeFailure` and
    `Disconnected`; the deadline is the caller's."""

    def __init__(self, identity: Identity, static: StaticKey) -> None:
        self._own = identity.peer
        self._static = static
        self._local_key = create_new_key_pair(identity.signing_seed).private_key
        self._proof = proof_of(identity, static.public)

    async def dial(self, wire: RawWire, peer: PeerId) -> PacedConnection:
        """`WrongIdentity` if somebody else answers."""
        state = self._begin(is_dialler=True)
        handshake = state.noise_protocol.handshake_state  # the library lets go of it at the last message
        await send_message(wire, write_message(state, b""))
        proof = read_message(state, await receive_message(wire, MESSAGE_BYTES_MAX))
        static: bytes = handshake.rs.public_bytes
        if proven_peer(proof, static) != peer:
            raise WrongIdentity(f"another peer than {peer} answered")
        await send_message(wire, write_message(state, self._proof))
        return self._secured(wire, state, peer, static)

    async def accept(self, wire: RawWire) -> PacedConnection:
        """Anybody who proves who it is, but this node itself."""
        opening = await receive_message(wire, OPENING_BYTES)
        state = self._begin(is_dialler=False)
        handshake = state.noise_protocol.handshake_state
        if len(opening) != OPENING_BYTES or read_message(state, opening):
            raise HandshakeFailure("the first handshake message has the wrong length")
        await send_message(wire, write_message(state, self._proof))
        proof = read_message(state, await receive_message(wire, MESSAGE_BYTES_MAX))
        static: bytes = handshake.rs.public_bytes
        peer = proven_peer(proof, static)
        if peer == self._own:
            raise WrongIdentity("a node does not connect to itself")
        return self._secured(wire, state, peer, static)

    def _begin(self, *, is_dialler: bool) -> NoiseConnection:
        state = NoiseConnection.from_name(PATTERN)
        state.set_keypair_from_private_bytes(Keypair.STATIC, self._static.private)
        if is_dialler:
            state.set_as_initiator()
        else:
            state.set_as_responder()
        state.start_handshake()
        return state

    def _secured(self, wire: RawWire, state: NoiseConnection, peer: PeerId, static: bytes) -> PacedConnection:
        ciphers = state.noise_protocol
        secured = PacedConnection(
            wire,
            key_out=ciphers.cipher_state_encrypt.k,
            key_in=ciphers.cipher_state_decrypt.k,
            local_key=self._local_key,
            remote=ID.from_base58(peer),
            remote_static=X25519PublicKey.from_bytes(static),
        )
        secured.negotiated_security_protocol = PROTOCOL_ID
        return secured
