"""One direction of a Noise transport: ChaCha20-Poly1305 under a counting nonce, and a new key after so many frames.

The new key is Noise's REKEY (sections 4.2 and 11.3 of its specification): the first 32 bytes of the encryption of 32 zero
bytes under the last nonce. The count goes on. Both sides count the same frames, so neither has to tell the other.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

TAG_BYTES: Final = 16
KEY_BYTES: Final = 32
_NONCE: Final = Struct("<4xQ")
_LAST_NONCE: Final = _NONCE.pack((1 << 64) - 1)


def rekeyed(key: bytes) -> bytes:
    """Noise's REKEY(k)."""
    return ChaCha20Poly1305(key).encrypt(_LAST_NONCE, bytes(KEY_BYTES), None)[:KEY_BYTES]


class Cipher:
    """Seals or opens frames in order. `rekey_frames` as both sides have agreed; 0 for never, as libp2p's own Noise has it."""

    def __init__(self, key: bytes, rekey_frames: int = 0) -> None:
        self._key = key
        self._aead = ChaCha20Poly1305(key)
        self._count = 0
        self._rekey_frames = rekey_frames

    def _nonce(self) -> bytes:
        count = self._count
        if self._rekey_frames and count and count % self._rekey_frames == 0:
            self._key = rekeyed(self._key)
            self._aead = ChaCha20Poly1305(self._key)
        self._count = count + 1
        return _NONCE.pack(count)

    def seal_into(self, plain: memoryview, sealed: memoryview) -> None:
        """`sealed` is `TAG_BYTES` longer than `plain`."""
        nonce = self._nonce()  # first, since it may come with a new key
        self._aead.encrypt_into(nonce, plain, None, sealed)

    def open(self, sealed: memoryview) -> bytes:
        """Raises `InvalidTag`."""
        nonce = self._nonce()
        return self._aead.decrypt(nonce, sealed, None)
