"""Noise XK: `Noise_XK_25519_ChaChaPoly_SHA256`, with identities as libp2p-noise proves them.

    dialler (knows the acceptor's static)            acceptor
      | -> e, es                                ---->  |   48 bytes, no payload: a replay of it changes nothing
      |  <----              <- e, ee + its identity    |   the dialler checks that it is the peer it meant
      | -> s, se + its identity                 ---->  |   hidden from everybody but the holder of the static

Each identity payload is libp2p-noise's protobuf: the Ed25519 key and its signature over the static that this very handshake
uses. The prologue binds the network and the negotiation that led here, so that neither can be changed on the way. A
handshake has one state object, which is thrown away with the connection on any error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseHandshakeError, NoiseInvalidMessage, NoiseValueError

from mesh.host.framing import RawWire, SecureConnection
from mesh.host.negotiation import Transcript
from mesh.members.identity import Identity, is_static_of, peer_of
from protocols.ids import NetworkId, PeerId

PROTOCOL_ID: Final = "/weft/noise-xk/1"
PATTERN: Final = b"Noise_XK_25519_ChaChaPoly_SHA256"
OPENING_BYTES: Final = 48  # an ephemeral key and the tag of an empty payload
MESSAGE_BYTES_MAX: Final = 1024  # identity payloads take about 170
_ED25519_HEAD: Final = bytes.fromhex("08011220")

_BROKEN: Final = (InvalidTag, ValueError, NoiseValueError, NoiseInvalidMessage, NoiseHandshakeError)
"""What `noiseprotocol` and `cryptography` raise for bytes that are not the expected message."""


class WrongIdentity(HandshakeFailure):
    """The other side could not prove to be who was dialled, or who it says it is."""


class Unwelcome(HandshakeFailure):
    """The other side is who it says, and policy does not let it in."""


class NoiseXk(ISecureTransport):
    """The handshake in both roles. `static_of` tells a peer's static key; `is_welcome` is asked about every dialler."""

    def __init__(
        self,
        identity: Identity,
        network_id: NetworkId,
        static_of: Callable[[PeerId], bytes | None],
        is_welcome: Callable[[PeerId], bool],
    ) -> None:
        self._identity = identity
        self._network_id = network_id
        self._static_of = static_of
        self._is_welcome = is_welcome
        self._local_key = create_new_key_pair(identity.signing_seed).private_key
        self._payload = NoiseHandshakePayload(
            identity_key=_ED25519_HEAD + identity.public_key, identity_sig=identity.sign_static()
        ).SerializeToString()

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self.accept(RawWire(conn), Transcript())

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self.dial(RawWire(conn), PeerId(peer_id.to_base58()), Transcript())

    async def dial(self, wire: RawWire, peer: PeerId, transcript: Transcript) -> SecureConnection:
        """Raises `HandshakeFailure`, as `WrongIdentity` if somebody else answered, and `Disconnected`."""
        static = self._static_of(peer)
        if static is None:
            raise HandshakeFailure(f"the Noise key of {peer} is not known")
        state = self._begin(transcript, static)
        await _send(wire, _write(state))
        proof = _read(state, await _receive(wire))
        if _proven_peer(proof, static) != peer:
            raise WrongIdentity(f"another peer than {peer} answered")
        await _send(wire, _write(state, self._payload))
        return self._secured(wire, state, peer, static)

    async def accept(self, wire: RawWire, transcript: Transcript) -> SecureConnection:
        """Raises `HandshakeFailure`, as `Unwelcome` if policy refuses the peer, and `Disconnected`."""
        state = self._begin(transcript, None)
        handshake = state.noise_protocol.handshake_state  # the library lets go of it at the last message
        opening = await _receive(wire, OPENING_BYTES)
        if len(opening) != OPENING_BYTES:
            raise HandshakeFailure("the first handshake message has the wrong length")
        _read(state, opening)
        await _send(wire, _write(state, self._payload))
        proof = _read(state, await _receive(wire))
        static: bytes = handshake.rs.public_bytes
        peer = _proven_peer(proof, static)
        if peer == self._identity.peer or not self._is_welcome(peer):
            raise Unwelcome(f"{peer} is not welcome here")
        return self._secured(wire, state, peer, static)

    def _begin(self, transcript: Transcript, responder_static: bytes | None) -> NoiseConnection:
        state = NoiseConnection.from_name(PATTERN)
        state.set_prologue(prologue(self._network_id, transcript))
        state.set_keypair_from_private_bytes(Keypair.STATIC, self._identity.static_private)
        if responder_static is None:
            state.set_as_responder()
        else:
            state.set_as_initiator()
            state.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, responder_static)
        state.start_handshake()
        return state

    def _secured(
        self, wire: RawWire, state: NoiseConnection, peer: PeerId, static: bytes
    ) -> SecureConnection:
        ciphers = state.noise_protocol
        return SecureConnection(
            wire,
            key_out=ciphers.cipher_state_encrypt.k,
            key_in=ciphers.cipher_state_decrypt.k,
            local_key=self._local_key,
            remote=ID.from_base58(peer),
            remote_static=X25519PublicKey.from_bytes(static),
        )


def prologue(network_id: NetworkId, transcript: Transcript) -> bytes:
    """What both sides must agree on before the first key is mixed; all parts have fixed lengths."""
    return b"weft/xk/1" + b"".join(
        hashlib.sha256(part).digest()
        for part in (network_id.encode(), transcript.dialler, transcript.acceptor)
    )


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
        raise HandshakeFailure(
            "the handshake failed: another key, another network, or altered on the way"
        ) from error


def _write(state: NoiseConnection, payload: bytes = b"") -> bytes:
    try:
        return bytes(state.write_message(payload))
    except _BROKEN as error:
        raise HandshakeFailure("the other side's key is no usable key") from error


def _proven_peer(payload: bytes, static: bytes) -> PeerId:
    """Whose identity signed `static`; raises `WrongIdentity` if none did."""
    try:
        proof = NoiseHandshakePayload.FromString(payload)
    except DecodeError as error:
        raise WrongIdentity("the identity payload does not decode") from error
    key = proof.identity_key.removeprefix(_ED25519_HEAD)
    if not proof.identity_key.startswith(_ED25519_HEAD) or len(key) != 32:
        raise WrongIdentity("the identity is no Ed25519 key")
    peer = peer_of(key)
    if not is_static_of(peer, static, proof.identity_sig):
        raise WrongIdentity(f"the Noise key in use is not signed by {peer}")
    return peer
