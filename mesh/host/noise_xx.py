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

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseHandshakeError, NoiseInvalidMessage, NoiseValueError

from mesh.host.foreign_pace import PacedConnection
from mesh.host.framing import RawWire
from mesh.host.noise_xk import WrongIdentity
from mesh.members.identity import Identity, StaticKey, is_static_of, peer_of
from protocols.ids import PeerId

PROTOCOL_ID: Final = "/noise"
PATTERN: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
OPENING_BYTES: Final = 32  # an ephemeral key
MESSAGE_BYTES_MAX: Final = 2048  # about 220, and as much again for whatever extensions a peer sends
PUBLIC_KEY_HEAD: Final = bytes.fromhex("08011220")  # libp2p's protobuf {1: Ed25519, 2: 32 bytes}

_BROKEN: Final = (InvalidTag, ValueError, NoiseValueError, NoiseInvalidMessage, NoiseHandshakeError)
"""What `noiseprotocol` and `cryptography` raise for bytes that are not the expected message."""


class NoiseXx:
    """The handshake in both roles, with `static`, which nothing else uses. Both raise `HandshakeFailure` and
    `Disconnected`; the deadline is the caller's."""

    def __init__(self, identity: Identity, static: StaticKey) -> None:
        self._own = identity.peer
        self._static = static
        self._local_key = create_new_key_pair(identity.signing_seed).private_key
        proof = NoiseHandshakePayload(
            identity_key=PUBLIC_KEY_HEAD + identity.public_key,
            identity_sig=identity.sign_static(static.public),
        )
        self._proof = bytes(proof.SerializeToString())

    async def dial(self, wire: RawWire, peer: PeerId) -> PacedConnection:
        """`WrongIdentity` if somebody else answers."""
        state = self._begin(is_dialler=True)
        handshake = state.noise_protocol.handshake_state  # the library lets go of it at the last message
        await _send(wire, _write(state, b""))
        proof = _read(state, await _receive(wire))
        static: bytes = handshake.rs.public_bytes
        if proven_peer(proof, static) != peer:
            raise WrongIdentity(f"another peer than {peer} answered")
        await _send(wire, _write(state, self._proof))
        return self._secured(wire, state, peer, static)

    async def accept(self, wire: RawWire) -> PacedConnection:
        """Anybody who proves who it is, but this node itself."""
        opening = await _receive(wire, OPENING_BYTES)
        state = self._begin(is_dialler=False)
        handshake = state.noise_protocol.handshake_state
        if len(opening) != OPENING_BYTES or _read(state, opening):
            raise HandshakeFailure("the first handshake message has the wrong length")
        await _send(wire, _write(state, self._proof))
        proof = _read(state, await _receive(wire))
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


def proven_peer(payload: bytes, static: bytes) -> PeerId:
    """Whose identity signed `static`; raises `WrongIdentity` if none did."""
    try:
        proof = NoiseHandshakePayload.FromString(payload)
    except DecodeError as error:
        raise WrongIdentity("the identity payload does not decode") from error
    key = proof.identity_key.removeprefix(PUBLIC_KEY_HEAD)
    if not proof.identity_key.startswith(PUBLIC_KEY_HEAD) or len(key) != 32:
        raise WrongIdentity("the identity is no Ed25519 key")
    peer = peer_of(key)
    if not is_static_of(peer, static, proof.identity_sig):
        raise WrongIdentity(f"the Noise key in use is not signed by {peer}")
    return peer


async def _send(wire: RawWire, message: bytes) -> None:
    await wire.write(len(message).to_bytes(2, "big") + message)


async def _receive(wire: RawWire, limit_bytes: int = MESSAGE_BYTES_MAX) -> bytes:
    length = int.from_bytes(await wire.read_exactly(2), "big")
    if length > limit_bytes:
        raise HandshakeFailure(f"a handshake message of {length} bytes is too long")
    return await wire.read_exactly(length)


def _read(state: NoiseConnection, message: bytes) -> bytes:
    try:
        return bytes(state.read_message(message))
    except _BROKEN as error:
        raise HandshakeFailure("the handshake failed: no Noise XX, or altered on the way") from error


def _write(state: NoiseConnection, payload: bytes) -> bytes:
    try:
        return bytes(state.write_message(payload))
    except _BROKEN as error:
        raise HandshakeFailure("the other side's key is no usable key") from error
