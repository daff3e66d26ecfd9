"""Identity files, peer ids and signatures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.peer.id import ID
from libp2p.security.noise.messages import NoiseHandshakePayload, verify_handshake_payload_sig

from mesh.admission.identity import (
    IDENTITY_FILE,
    STATIC_FILE,
    identity_from_keys,
    is_signed_by,
    is_static_of,
    load_identity,
    peer_of,
    public_key_of,
    rotate_static,
)
from protocols.errors import LocalFault, Malformed, UserError
from protocols.ids import PeerId
from simulations.machine.disk import MemoryDisk

NOW_S = 1_800_000_000.0
SEED, STATIC = bytes(range(32)), bytes(range(32, 64))


class CountingBytes:
    """Randomness whose n-th draw is n repeated."""

    def __init__(self) -> None:
        self.drawn = 0

    def token_bytes(self, count: int) -> bytes:
        self.drawn += 1
        return bytes([self.drawn]) * count


class ModeDisk(MemoryDisk):
    def __init__(self) -> None:
        super().__init__()
        self.modes: dict[str, int] = {}

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self.modes[path] = mode
        super().write(path, data, mode)


def test_keys_are_made_on_first_use_and_kept() -> None:
    disk, randomness = ModeDisk(), CountingBytes()
    first = load_identity(disk, randomness, NOW_S)
    second = load_identity(disk, randomness, NOW_S)
    assert (first.peer, first.static, randomness.drawn) == (second.peer, second.static, 2)


def test_key_files_are_for_their_owner_alone() -> None:
    disk = ModeDisk()
    load_identity(disk, CountingBytes(), NOW_S)
    assert disk.modes == {IDENTITY_FILE: 0o600, STATIC_FILE: 0o600}


def test_a_lost_static_is_replaced_and_the_name_stays() -> None:
    disk, randomness = MemoryDisk(), CountingBytes()
    before = load_identity(disk, randomness, NOW_S)
    disk.delete(STATIC_FILE)
    after = load_identity(disk, randomness, NOW_S)
    assert after.peer == before.peer
    assert after.static != before.static


@pytest.mark.parametrize("path", [IDENTITY_FILE, STATIC_FILE])
@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: b"",
        lambda stored: stored[:-1],
        lambda stored: stored + b"\n",
        lambda stored: bytes([stored[0] ^ 8]) + stored[1:],
        lambda stored: stored[:-1] + bytes([stored[-1] ^ 1]),
        lambda stored: b"\0" * len(stored),
    ],
)
def test_a_damaged_key_file_is_the_users_to_mend_and_is_left_alone(path: str, damage) -> None:
    disk = MemoryDisk()
    load_identity(disk, CountingBytes(), NOW_S)
    disk.files[path] = damage(disk.files[path])
    kept = dict(disk.files)
    with pytest.raises(UserError, match=path) as raised:
        load_identity(disk, CountingBytes(), NOW_S)
    assert "\n" not in str(raised.value)
    assert disk.files == kept


def test_the_peer_id_is_the_one_libp2p_gives() -> None:
    pair = create_new_key_pair(SEED)
    identity = identity_from_keys(SEED, STATIC)
    assert identity.peer == ID.from_pubkey(pair.public_key).to_base58()
    assert identity.peer.startswith("12D3KooW")


def test_libp2p_accepts_the_proof_of_the_static() -> None:
    identity = identity_from_keys(SEED, STATIC)
    proof = NoiseHandshakePayload(create_new_key_pair(SEED).public_key, identity.sign_static(identity.static))
    assert verify_handshake_payload_sig(proof, X25519PublicKey.from_bytes(identity.static))


def test_a_static_that_another_signed_is_not_accepted() -> None:
    one, two = identity_from_keys(SEED, STATIC), identity_from_keys(STATIC, SEED)
    assert is_static_of(one.peer, one.static, one.sign_static(one.static))
    assert not is_static_of(one.peer, one.static, two.sign_static(two.static))
    assert not is_static_of(one.peer, two.static, one.sign_static(one.static))
    assert not is_static_of(one.peer, one.static, one.sign(one.static))


@given(st.binary(max_size=200), st.integers(0, 511))
def test_a_signature_holds_for_its_message_and_no_other(message: bytes, flipped: int) -> None:
    identity = identity_from_keys(SEED, STATIC)
    signature = identity.sign(message)
    assert is_signed_by(identity.peer, message, signature)
    assert not is_signed_by(identity.peer, message + b"!", signature)
    forged = bytearray(signature)
    forged[flipped // 8] ^= 1 << flipped % 8
    assert not is_signed_by(identity.peer, message, bytes(forged))
    assert not is_signed_by(identity.peer, message, signature[:-1])


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_carries_its_key(key: bytes) -> None:
    peer = peer_of(key)
    assert public_key_of(peer) == key
    assert len(peer) == 52


@given(st.text(max_size=200))
def test_what_is_no_peer_id_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        public_key_of(PeerId(text))


@pytest.mark.parametrize("text", ["QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "1" * 60, "z" * 10_000])
def test_peer_ids_of_other_kinds_are_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        public_key_of(PeerId(text))


def test_the_last_two_statics_are_good_and_kept() -> None:
    disk, randomness = MemoryDisk(), CountingBytes()
    identity = load_identity(disk, randomness, NOW_S)
    first = identity.static
    rotate_static(disk, randomness, identity, NOW_S + 1)
    second = identity.static
    assert [key.public for key in identity.statics] == [second, first]
    rotate_static(disk, randomness, identity, NOW_S + 2)
    assert [key.made_s for key in identity.statics] == [NOW_S + 2, NOW_S + 1]
    assert first not in [key.public for key in identity.statics]
    assert load_identity(disk, randomness, NOW_S).statics == identity.statics


def test_a_static_that_can_not_be_stored_is_not_used() -> None:
    disk, randomness = MemoryDisk(), CountingBytes()
    identity = load_identity(disk, randomness, NOW_S)
    before = identity.statics
    disk.is_full = True
    with pytest.raises(LocalFault):
        rotate_static(disk, randomness, identity, NOW_S + 1)
    assert identity.statics == before


def test_an_identity_does_not_show_its_keys() -> None:
    identity = identity_from_keys(SEED, STATIC)
    shown = repr(identity) + str(identity) + repr(identity.statics)
    assert identity.peer in shown
    for secret in (SEED, STATIC):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
