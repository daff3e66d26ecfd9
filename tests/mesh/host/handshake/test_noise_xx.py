"""Noise XX: against libp2p's own in both roles, and attacked at every message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.abc import ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PrivateKey
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.pb.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from libp2p.security.noise.transport import Transport
from trio.testing import MockClock

from mesh.admission.identity import Identity, static_key
from mesh.host.foreign.pace import BURST_S, Pace, PacedConnection
from mesh.host.handshake.noise import PUBLIC_KEY_HEAD, WrongIdentity, proven_peer
from mesh.host.handshake.noise_xx import MESSAGE_BYTES_MAX, OPENING_BYTES, NoiseXx
from mesh.host.wire.framing import RawWire, SecureConnection
from protocols import limits
from protocols.errors import Disconnected
from protocols.ids import PeerId
from tests.mesh.host.wires import MemoryWire, identity, wire_pair
from tests.virtual_time import run_on_virtual_time

ONE, TWO, THREE = identity(1), identity(2), identity(3)
FAILURES = (HandshakeFailure, Disconnected)
Outcome = SecureConnection | Exception


def xx(own: Identity, number: int = 0) -> NoiseXx:
    return NoiseXx(own, static_key(bytes([200 + number]) * 32, 0.0))


def stock(own: Identity) -> Transport:
    return Transport(create_new_key_pair(own.signing_seed), X25519PrivateKey.new())


class _Forged(Identity):
    def sign_static(self, static: bytes) -> bytes:
        return THREE.sign_static(static)


def forged(own: Identity) -> Identity:
    """`own`, but with another's signature over its Noise key."""
    return _Forged(own._signer, own.statics)


async def attempt(
    act: Callable[[], Awaitable[SecureConnection]], wire: MemoryWire, outcomes: list[Outcome]
) -> None:
    """What comes of one side; as in the real host, a failed side closes its connection."""
    try:
        outcomes.append(await act())
    except FAILURES as error:
        outcomes.append(error)
        await wire.close()


async def shake(
    dialler: NoiseXx,
    acceptor: NoiseXx,
    expected: PeerId = TWO.peer,
    wires: tuple[MemoryWire, MemoryWire] | None = None,
) -> tuple[Outcome, Outcome]:
    here, there = wires or wire_pair()
    dialled: list[Outcome] = []
    accepted: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, lambda: dialler.dial(RawWire(here), expected), here, dialled)
        nursery.start_soon(attempt, lambda: acceptor.accept(RawWire(there)), there, accepted)
    return dialled[0], accepted[0]


async def talk(one: ISecureConn, other: ISecureConn, size_bytes: int = 100_000) -> None:
    """Bodies of several frames both ways."""
    for sender, receiver in ((one, other), (other, one)):
        body, got = bytes(range(256)) * (size_bytes // 256), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.write, body)
            while len(got) < len(body):
                got += await receiver.read(min(4096, len(body) - len(got)))
        assert got == body


async def test_both_sides_know_each_other_and_can_talk() -> None:
    dialled, accepted = await shake(xx(ONE), xx(TWO))
    assert isinstance(dialled, SecureConnection)
    assert isinstance(accepted, SecureConnection)
    assert dialled.get_remote_peer().to_base58() == TWO.peer
    assert accepted.get_remote_peer().to_base58() == ONE.peer
    await talk(dialled, accepted)


async def test_libp2ps_own_dials_it() -> None:
    here, there = wire_pair()
    dialled: list[ISecureConn] = []

    async def dial() -> None:
        dialled.append(await stock(ONE).secure_outbound(here, ID.from_base58(TWO.peer)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        accepted = await xx(TWO).accept(RawWire(there))
    assert accepted.get_remote_peer().to_base58() == ONE.peer
    assert dialled[0].get_remote_peer().to_base58() == TWO.peer
    await talk(dialled[0], accepted)


async def test_it_dials_libp2ps_own() -> None:
    here, there = wire_pair()
    accepted: list[ISecureConn] = []

    async def accept() -> None:
        accepted.append(await stock(TWO).secure_inbound(there))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        dialled = await xx(ONE).dial(RawWire(here), TWO.peer)
    assert accepted[0].get_remote_peer().to_base58() == ONE.peer
    await talk(dialled, accepted[0])


async def test_another_peer_than_was_meant_is_found_out() -> None:
    dialled, accepted = await shake(xx(ONE), xx(TWO), expected=THREE.peer)
    assert isinstance(dialled, WrongIdentity)
    assert isinstance(accepted, Disconnected)


async def test_a_dialler_whose_static_was_signed_by_another_is_refused() -> None:
    dialled, accepted = await shake(xx(forged(ONE)), xx(TWO))
    assert isinstance(dialled, SecureConnection)  # it can't know yet
    assert isinstance(accepted, WrongIdentity)


async def test_an_acceptor_whose_static_was_signed_by_another_is_refused() -> None:
    dialled, accepted = await shake(xx(ONE), xx(forged(TWO)))
    assert isinstance(dialled, WrongIdentity)
    assert isinstance(accepted, Disconnected)


async def test_libp2ps_own_refuses_a_forged_signature_as_well() -> None:
    here, there = wire_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, lambda: xx(forged(TWO)).accept(RawWire(there)), there, [])
        with pytest.raises(BaseLibp2pError):
            await stock(ONE).secure_outbound(here, ID.from_base58(TWO.peer))
        await here.close()


async def test_a_node_does_not_connect_to_itself() -> None:
    _, accepted = await shake(xx(TWO), xx(TWO, 1))
    assert isinstance(accepted, WrongIdentity)


def payload(static: bytes, **changed: bytes) -> bytes:
    parts = {
        "identity_key": PUBLIC_KEY_HEAD + ONE.public_key,
        "identity_sig": ONE.sign_static(static),
    }
    return bytes(NoiseHandshakePayload(**{**parts, **changed}).SerializeToString())


def test_a_payload_with_extensions_is_understood() -> None:
    extended = NoiseHandshakePayload.FromString(payload(TWO.static))
    extended.extensions.CopyFrom(NoiseExtensions(stream_muxers=["/yamux/1.0.0"]))
    assert proven_peer(extended.SerializeToString(), TWO.static) == ONE.peer


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xff",
        payload(TWO.static)[:-1],
        payload(THREE.static),
        payload(TWO.static, identity_key=b""),
        payload(TWO.static, identity_key=ONE.public_key),
        payload(TWO.static, identity_key=PUBLIC_KEY_HEAD + TWO.public_key),
        payload(TWO.static, identity_key=PUBLIC_KEY_HEAD + ONE.public_key + b"\0"),
        payload(TWO.static, identity_key=PUBLIC_KEY_HEAD + b"\xff" * 32),
        payload(TWO.static, identity_sig=b""),
        payload(TWO.static, identity_sig=ONE.sign_static(TWO.static)[:63]),
        payload(TWO.static, identity_sig=ONE.sign(TWO.static)),
    ],
)
def test_a_payload_that_proves_nothing_is_refused(bad: bytes) -> None:
    with pytest.raises(WrongIdentity):
        proven_peer(bad, TWO.static)


@given(st.binary(max_size=200))
def test_a_payload_of_any_bytes_raises_nothing_else(body: bytes) -> None:
    with pytest.raises(WrongIdentity):
        proven_peer(body, TWO.static)


class CutWire(MemoryWire):
    """Ends its connection after so many bytes, or changes one on the way."""

    def __init__(self, is_initiator: bool, cut_at: int, flip: bool) -> None:
        super().__init__(is_initiator)
        self._left = cut_at
        self._flip = flip

    async def write(self, data: bytes) -> None:
        at, self._left = self._left, self._left - len(data)
        if not 0 <= at < len(data):
            await super().write(data)
        elif self._flip:
            await super().write(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        else:
            await super().write(data[:at])
            await self.close()
            raise trio.BrokenResourceError


def cut_pair(dialler_at: int, acceptor_at: int, *, flip: bool) -> tuple[MemoryWire, MemoryWire]:
    here, there = CutWire(True, dialler_at, flip), CutWire(False, acceptor_at, flip)
    here.other, there.other = there, here
    return here, there


FIRST_BYTES, LAST_BYTES = 2 + OPENING_BYTES, 2 + 48 + 104 + 16


@pytest.mark.parametrize("cut_at", [0, 1, 2, 33, FIRST_BYTES, FIRST_BYTES + 1, FIRST_BYTES + LAST_BYTES - 1])
async def test_a_dialler_that_is_cut_off_anywhere_fails_the_acceptor_plainly(cut_at: int) -> None:
    _, accepted = await shake(xx(ONE), xx(TWO), wires=cut_pair(cut_at, -1, flip=False))
    assert isinstance(accepted, Disconnected)


@pytest.mark.parametrize("at", [2, 33, FIRST_BYTES + 2, FIRST_BYTES + 60, FIRST_BYTES + LAST_BYTES - 1])
async def test_a_bit_that_is_changed_on_the_way_to_the_acceptor_breaks_the_handshake(at: int) -> None:
    _, accepted = await shake(xx(ONE), xx(TWO), wires=cut_pair(at, -1, flip=True))
    assert isinstance(accepted, FAILURES)


@pytest.mark.parametrize("at", [2, 40, 90, 2 + 32 + LAST_BYTES - 3])
async def test_a_bit_that_is_changed_on_the_way_to_the_dialler_breaks_the_handshake(at: int) -> None:
    dialled, _ = await shake(xx(ONE), xx(TWO), wires=cut_pair(-1, at, flip=True))
    assert isinstance(dialled, FAILURES)


@given(st.binary(max_size=300))
def test_random_bytes_fail_the_acceptor_with_nothing_else(sent: bytes) -> None:
    async def receive_them() -> None:
        here, there = wire_pair()
        await here.write(sent)
        await here.close()
        with pytest.raises(FAILURES):
            await xx(TWO).accept(RawWire(there))

    run_on_virtual_time(receive_them)


@given(st.binary(max_size=300))
def test_random_bytes_fail_the_dialler_with_nothing_else(sent: bytes) -> None:
    async def receive_them() -> None:
        here, there = wire_pair()
        await there.write(sent)
        await there.close()
        with pytest.raises(FAILURES):
            await xx(ONE).dial(RawWire(here), TWO.peer)

    run_on_virtual_time(receive_them)


@pytest.mark.parametrize("length", [0, OPENING_BYTES - 1, OPENING_BYTES + 1, 0xFFFF])
async def test_a_first_message_of_another_length_is_refused_at_once(length: int) -> None:
    here, there = wire_pair()
    await here.write(length.to_bytes(2, "big") + bytes(min(length, 64)))
    with pytest.raises(HandshakeFailure), trio.fail_after(5):
        await xx(TWO).accept(RawWire(there))


async def test_an_answer_that_is_too_long_is_refused_before_it_has_come() -> None:
    here, there = wire_pair()
    await there.write((MESSAGE_BYTES_MAX + 1).to_bytes(2, "big"))
    with pytest.raises(HandshakeFailure), trio.fail_after(5):
        await xx(ONE).dial(RawWire(here), TWO.peer)


async def test_what_is_read_is_paid_for_before_more_is_read(autojump_clock: MockClock) -> None:
    dialled, accepted = await paced_pair(1e9)
    began, got = trio.current_time(), 0
    for _ in range(4):
        await dialled.write(bytes(limits.FOREIGN_BYTES_PER_S))
    while got < 4 * limits.FOREIGN_BYTES_PER_S:
        got += sum(len(frame) for frame in await accepted.receive())
    assert 2.5 <= trio.current_time() - began <= 4.0 - BURST_S + 0.1


async def paced_pair(all_per_s: float) -> tuple[PacedConnection, PacedConnection]:
    dialled, accepted = await shake(xx(ONE), xx(TWO))
    assert isinstance(dialled, PacedConnection)
    assert isinstance(accepted, PacedConnection)
    accepted.pace_with(Pace(all_per_s))
    return dialled, accepted


async def test_all_connections_together_have_a_pace_as_well(autojump_clock: MockClock) -> None:
    dialled, accepted = await paced_pair(limits.FOREIGN_BYTES_PER_S / 8)
    began, got = trio.current_time(), 0
    await dialled.write(bytes(limits.FOREIGN_BYTES_PER_S))
    while got < limits.FOREIGN_BYTES_PER_S:
        got += sum(len(frame) for frame in await accepted.receive())
    assert 4.5 <= trio.current_time() - began <= 7.1


async def test_a_connection_that_is_closed_while_it_waits_has_ended(autojump_clock: MockClock) -> None:
    dialled, accepted = await paced_pair(limits.FOREIGN_TURN_BYTES / 100)
    await dialled.write(b"x")
    assert await accepted.receive() == [b"x"]
    ended = []

    async def wait() -> None:
        ended.append(await accepted.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        await accepted.close()
    assert ended == [()]


async def test_small_pieces_cost_as_much_as_a_larger_one(autojump_clock: MockClock) -> None:
    dialled, accepted = await paced_pair(1e9)
    began, turns = trio.current_time(), limits.FOREIGN_BYTES_PER_S // limits.FOREIGN_TURN_BYTES
    for _ in range(3 * turns):
        await dialled.write(b"x")
        await accepted.receive()
    assert 1.9 <= trio.current_time() - began <= 2.1
