"""Who a node is: an Ed25519 key that names it and signs for it, and a separate X25519 key for Noise.

The peer id is libp2p's: base58 of the identity multihash of the protobuf of the public key, so that it carries the whole
key and any member can check any signature from the id alone. The Noise static is bound to the identity by the signature
that libp2p-noise uses. Both key files hold 64 bytes, private then public, so that damage is noticed before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.errors import Malformed, UserError
from protocols.ids import PeerId
from protocols.seams import Disk, Randomness

IDENTITY_FILE: Final = "identity.key"
STATIC_FILE: Final = "static.key"
STATIC_SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"

_KEY_BYTES: Final = 32
# Multihash "identity", 36 bytes long; then the protobuf {1: Ed25519, 2: 32 bytes}.
_PEER_ID_HEAD: Final = bytes.fromhex("002408011220")
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Identity:
    """The private keys of one node. Its `repr` shows the peer id alone."""

    peer: PeerId
    static: bytes
    _signer: Ed25519PrivateKey
    _static_private: bytes

    def __repr__(self) -> str:
        return f"Identity({self.peer})"

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key().public_bytes_raw()

    @property
    def static_private(self) -> bytes:
        """The X25519 private key, for the Noise handshake alone."""
        return self._static_private

    @property
    def signing_seed(self) -> bytes:
        """The Ed25519 private key, for libp2p's own key object alone."""
        return self._signer.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._signer.sign(message)

    def sign_static(self) -> bytes:
        """The proof that `static` belongs to `peer`, as libp2p-noise has it."""
        return self.sign(STATIC_SIGNATURE_PREFIX + self.static)


def identity_from_keys(signing_seed: bytes, static_private: bytes) -> Identity:
    signer = Ed25519PrivateKey.from_private_bytes(signing_seed)
    static = _static_public(static_private)
    return Identity(peer_of(signer.public_key().public_bytes_raw()), static, signer, static_private)


def load_identity(disk: Disk, randomness: Randomness) -> Identity:
    """The identity in the node's home, made on first use. Raises `UserError` for a damaged file, `LocalFault`."""
    return identity_from_keys(
        _load_key(disk, randomness, IDENTITY_FILE, _signing_public),
        _load_key(disk, randomness, STATIC_FILE, _static_public),
    )


def _load_key(disk: Disk, randomness: Randomness, path: str, public_of: Callable[[bytes], bytes]) -> bytes:
    stored = disk.read(path)
    if stored is None:
        private = randomness.token_bytes(_KEY_BYTES)
        disk.write(path, private + public_of(private), 0o600)
        return private
    private = stored[:_KEY_BYTES]
    if len(stored) != 2 * _KEY_BYTES or public_of(private) != stored[_KEY_BYTES:]:
        raise UserError(
            f"The key file {path} is damaged: restore it from a backup, or move it away to get a new key and join again."
        )
    return private


def _signing_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def _static_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


# Peer ids and signatures ---------------------------------------------------------------------------------------------


def peer_of(public_key: bytes) -> PeerId:
    """The peer id of an Ed25519 public key."""
    return PeerId(_encode_base58(_PEER_ID_HEAD + public_key))


def public_key_of(peer: PeerId) -> bytes:
    """The Ed25519 key inside a peer id; raises `Malformed` for anything else."""
    raw = _decode_base58(peer)
    if len(raw) != len(_PEER_ID_HEAD) + _KEY_BYTES or not raw.startswith(_PEER_ID_HEAD):
        raise Malformed(f"{peer!r} is no peer id of an Ed25519 key")
    return raw[len(_PEER_ID_HEAD) :]


def is_signed_by(peer: PeerId, message: bytes, signature: bytes) -> bool:
    """Whether `peer` signed `message`; raises `Malformed` if that is no peer id."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of(peer)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def is_static_of(peer: PeerId, static: bytes, signature: bytes) -> bool:
    """Whether `peer` signed that `static` is its Noise key; raises `Malformed` if that is no peer id."""
    return is_signed_by(peer, STATIC_SIGNATURE_PREFIX + static, signature)


def _encode_base58(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    leading_zeros = len(data) - len(data.lstrip(b"\0"))
    return _BASE58[0] * leading_zeros + digits


def _decode_base58(text: str) -> bytes:
    if len(text) > 128 or not set(text) <= set(_BASE58):
        raise Malformed("not base58")
    number = 0
    for digit in text:
        number = number * 58 + _BASE58.index(digit)
    leading_zeros = len(text) - len(text.lstrip(_BASE58[0]))
    return bytes(leading_zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
