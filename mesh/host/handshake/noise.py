"""What every Noise handshake has in common: framed messages, one state per attempt, and who stands behind a static key.

A state that has met bytes it did not expect is of no more use (the library leaves it half-way), so every fault ends the attempt.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from google.protobuf.message import DecodeError
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.pb.noise_pb2 import NoiseHandshakePayload
from noise.connection import NoiseConnection
from noise.exceptions import NoiseHandshakeError, NoiseInvalidMessage, NoiseValueError

from mesh.admission.identity import Identity, is_static_of, peer_of
from mesh.host.wire.framing import RawWire
from protocols.ids import PeerId

PUBLIC_KEY_HEAD: Final = bytes.fromhex("08011220")  # libp2p's protobuf {1: Ed25519, 2: 32 bytes}

_BROKEN: Final = (InvalidTag, ValueError, NoiseValueError, NoiseInvalidMessage, NoiseHandshakeError)
"""What `noiseprotocol` and `cryptography` raise for bytes that are not the expected message."""


class WrongIdentity(HandshakeFailure):
    """Somebody else is there, or nobody who can prove who it is."""


async def send_message(wire: RawWire, message: bytes) -> None:
    """Raises `Disconnected`."""
    await wire.write(len(message).to_bytes(2, "big") + message)


async def receive_message(wire: RawWire, limit_bytes: int) -> bytes:
    """Raises `HandshakeFailure` for a longer one, and `Disconnected`."""
    length = int.from_bytes(await wire.read_exactly(2), "big")
    if length > limit_bytes:
        raise HandshakeFailure(f"a handshake message of {length} bytes is too long")
    return await wire.read_exactly(length)


def read_message(state: NoiseConnection, message: bytes) -> bytes:
    """The payload. Raises `HandshakeFailure`."""
    try:
        return bytes(state.read_message(message))
    except _BROKEN as error:
        raise HandshakeFailure(
            "the handshake failed: another key, another network or protocol, or altered on the way"
        ) from error


def write_message(state: NoiseConnection, payload: bytes = b"") -> bytes:
    """Raises `HandshakeFailure`."""
    try:
        return bytes(state.write_message(payload))
    except _BROKEN as error:
        raise HandshakeFailure("the other side's key is no usable key") from error


def proof_of(identity: Identity, static: bytes) -> bytes:
    """That `static` is this identity's, as libp2p-noise has it."""
    payload = NoiseHandshakePayload(
        identity_key=PUBLIC_KEY_HEAD + identity.public_key, identity_sig=identity.sign_static(static)
    )
    return bytes(payload.SerializeToString())


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
