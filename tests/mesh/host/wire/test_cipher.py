"""Frames under one key, and under the next."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag

from mesh.host.wire.cipher import TAG_BYTES, Cipher, rekeyed
from protocols import limits

KEY = bytes(range(32))


def sealed(cipher: Cipher, plain: bytes) -> bytes:
    out = memoryview(bytearray(len(plain) + TAG_BYTES))
    cipher.seal_into(memoryview(plain), out)
    return bytes(out)


def test_the_next_key_is_the_one_of_the_noise_specification() -> None:
    # ChaCha20-Poly1305 of 32 zero bytes under the nonce 2^64 - 1, cut to 32; computed with libsodium.
    assert rekeyed(KEY).hex() == "50835543a205b22c9323f2022bc4f67d838f90e61d5ccf33c4513e01f85b5042"


def test_frames_before_and_after_a_new_key_are_what_they_always_were() -> None:
    cipher = Cipher(KEY, rekey_frames=2)
    assert [sealed(cipher, b"weft").hex() for _ in range(5)] == [
        "6fdd24456537a7accb9adf9ef34a657febbbad14",
        "e832952b72e365b547e81e09f92cd5841757a04b",
        "f3fe8ee304157955ee731f325f84caba1cf75c44",
        "acae7379b29e8bc5d0a1351b215079999f61b1fd",
        "3b01b8d59281fa557469a2ac1741091714c60f97",
    ]


def test_both_sides_change_the_key_after_the_same_frame() -> None:
    sealing, opening = Cipher(KEY, rekey_frames=3), Cipher(KEY, rekey_frames=3)
    for number in range(20):
        plain = bytes([number]) * number
        assert opening.open(memoryview(sealed(sealing, plain))) == plain


def test_a_side_that_keeps_its_key_reads_up_to_the_change_and_no_further() -> None:
    sealing, opening = Cipher(KEY, rekey_frames=3), Cipher(KEY)
    for _ in range(3):
        opening.open(memoryview(sealed(sealing, b"x")))
    with pytest.raises(InvalidTag):
        opening.open(memoryview(sealed(sealing, b"x")))


def test_a_key_serves_for_so_many_frames() -> None:
    assert limits.REKEY_FRAMES == 65_536
