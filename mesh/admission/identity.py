"""Who a node is: an Ed25519 key that names it and signs for it, and separate X25519 keys for Noise.

The peer id is libp2p's: base58 of the identity multihash of the protobuf of the public key, so that it carries the whole
key and any member can check any signature from the id alone. A Noise static is bound to the identity by the signature
that libp2p-noise uses. Statics are replaced every `STATIC_S`, and the last two are good, so that whoever was told the
older one still gets through. Key files hold private and public halves, so that damage is noticed before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
_DATE_BYTES: Final = 8
_DATE_S_MAX: Final = 1 << 40
_STATICS_KEPT: Final = 2
# Multihash "identity", 36 bytes long; then the protobuf {1: Ed25519, 2: 32 bytes}.
_PEER_ID_HEAD: Final = bytes.fromhex("002408011220")
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class StaticKey:
    """An X25519 key for Noise handshakes; `made_s` is wall-clock time."""

    private: bytes = field(repr=False)
    public: bytes
    made_s: int


class Identity:
    """The private keys of one node. Its `repr` shows the peer id alone."""

    def __init__(self, signer: Ed25519PrivateKey, statics: tuple[StaticKey, ...]) -> None:
        self.peer: Final = peer_of(signer.public_key().public_bytes_raw())
        self._signer = signer
        self._statics = statics

    def __repr__(self) -> str:
        return f"Identity({self.peer})"

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key().public_bytes_raw()

    @property
    def statics(self) -> tuple[StaticKey, ...]:
        """Those that are good, the newest first."""
        return self._statics

    @property
    def static(self) -> bytes:
        """The public half of the newest."""
        return self._statics[0].public

    @property
    def signing_seed(self) -> bytes:
        """The Ed25519 private key, for libp2p's own key object alone."""
        return self._signer.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        return self._signer.sign(message)

    def sign_static(self, static: bytes) -> bytes:
        """The proof that `static` belongs to `peer`, as libp2p-noise has it."""
        return self.sign(STATIC_SIGNATURE_PREFIX + static)

    def replace_static(self, newest: StaticKey) -> None:
        """In handshakes from now on; the one before stays good."""
        self._statics = (newest, *self._statics[: _STATICS_KEPT - 1])


def identity_from_keys(signing_seed: bytes, static_private: bytes, made_s: float = 0.0) -> Identity:
    signer = Ed25519PrivateKey.from_private_bytes(signing_seed)
    return Identity(signer, (static_key(static_private, made_s),))


def static_key(private: bytes, made_s: float) -> StaticKey:
    return StaticKey(private, _static_public(private), int(made_s))


def load_identity(disk: Disk, randomness: Randomness, now_s: float) -> Identity:
    """The identity in the node's home, made on first use. Raises `UserError` for a damaged file, `LocalFault`."""
    seed = _load_seed(disk, randomness)
    stored = disk.read(STATIC_FILE)
    if stored is None:
        identity = identity_from_keys(seed, randomness.token_bytes(_KEY_BYTES), now_s)
        _write_statics(disk, identity.statics)
        return identity
    return Identity(Ed25519PrivateKey.from_private_bytes(seed), _read_statics(stored))


def rotate_static(disk: Disk, randomness: Randomness, identity: Identity, now_s: float) -> None:
    """Give it a new static, on disk first. Raises `LocalFault`."""
    newest = static_key(randomness.token_bytes(_KEY_BYTES), now_s)
    _write_statics(disk, (newest, *identity.statics[: _STATICS_KEPT - 1]))
    identity.replace_static(newest)


def _load_seed(disk: Disk, randomness: Randomness) -> bytes:
    stored = disk.read(IDENTITY_FILE)
    if stored is None:
        seed = randomness.token_bytes(_KEY_BYTES)
        disk.write(IDENTITY_FILE, seed + _signing_public(seed), 0o600)
        return seed
    seed = stored[:_KEY_BYTES]
    if len(stored) != 2 * _KEY_BYTES or _signing_public(seed) != stored[_KEY_BYTES:]:
        raise _damaged(IDENTITY_FILE)
    return seed


def _write_statics(disk: Disk, statics: tuple[StaticKey, ...]) -> None:
    parts = (key.made_s.to_bytes(_DATE_BYTES, "big") + key.private + key.public for key in statics)
    disk.write(STATIC_FILE, b"".join(parts), 0o600)


def _read_statics(stored: bytes) -> tuple[StaticKey, ...]:
    size = _DATE_BYTES + 2 * _KEY_BYTES
    if not stored or len(stored) % size or len(stored) > _STATICS_KEPT * size:
        raise _damaged(STATIC_FILE)
    found = []
    for start in range(0, len(stored), size):
        made, rest = stored[start : start + _DATE_BYTES], stored[start + _DATE_BYTES : start + size]
        key = static_key(rest[:_KEY_BYTES], int.from_bytes(made, "big"))
        if key.public != rest[_KEY_BYTES:] or key.made_s >= _DATE_S_MAX:
            raise _damaged(STATIC_FILE)
        found.append(key)
    return tuple(found)


def _damaged(path: str) -> UserError:
    return UserError(
        f"The key file {path} is damaged: restore it from a backup, or move it away to get a new key and join again."
    )


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
