"""The handshake, attacked at every message."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from trio.testing import MockClock, wait_all_tasks_blocked

from mesh.admission.identity import Identity, static_key
from mesh.host.handshake import noise_xk
from mesh.host.handshake.negotiation import HEADER, Transcript, encode
from mesh.host.handshake.noise_xk import (
    MESSAGE_BYTES_MAX,
    PROTOCOL_ID,
    REFUSAL_BYTES_MAX,
    NoiseXk,
    TurnedAway,
    Unanswered,
    Unwelcome,
    WrongIdentity,
    prologue,
)
from mesh.host.handshake.security import XkOnly
from mesh.host.wire.framing import RawWire, SecureConnection
from protocols import limits
from protocols.errors import Disconnected, Unauthenticated
from protocols.ids import NetworkId, PeerId
from tests.mesh.host.wires import NETWORK, MemoryWire, identity, wire_pair, xk

ONE, TWO, THREE = identity(1), identity(2), identity(3)
FAILURES = (HandshakeFailure, Disconnected)
Outcome = SecureConnection | Exception


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
    dialler: NoiseXk,
    acceptor: NoiseXk,
    expected: PeerId = TWO.peer,
    *,
    wires: tuple[MemoryWire, MemoryWire] | None = None,
    transcripts: tuple[Transcript, Transcript] | None = None,
) -> tuple[Outcome, Outcome]:
    here, there = wires or wire_pair()
    said, heard = transcripts or (Transcript(), Transcript())
    dialled: list[Outcome] = []
    accepted: list[Outcome] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, lambda: dialler.dial(RawWire(here), expected, said), here, dialled)
        nursery.start_soon(attempt, lambda: acceptor.accept(RawWire(there), heard), there, accepted)
    return dialled[0], accepted[0]


class EditedWire(MemoryWire):
    """Passes each write through `edit` with its number, as somebody on the way could."""

    def __init__(self, is_initiator: bool, edit: Callable[[int, bytes], bytes]) -> None:
        super().__init__(is_initiator)
        self._edit = edit
        self._writes = 0

    async def write(self, data: bytes) -> None:
        number, self._writes = self._writes, self._writes + 1
        edited = self._edit(number, data)
        if edited:
            await super().write(edited)


def edited_pair(
    dialler_edit: Callable[[int, bytes], bytes], acceptor_edit: Callable[[int, bytes], bytes]
) -> tuple[MemoryWire, MemoryWire]:
    here, there = EditedWire(True, dialler_edit), EditedWire(False, acceptor_edit)
    here.other, there.other = there, here
    return here, there


def as_sent(number: int, data: bytes) -> bytes:
    return data


def only(target: int, edit: Callable[[bytes], bytes]) -> Callable[[int, bytes], bytes]:
    return lambda number, data: edit(data) if number == target else data


def let_in(peer: PeerId, shown: bytes, dialled: bool) -> None:
    """Whoever it is."""


def show_nothing() -> bytes:
    return b""


async def test_both_sides_know_each_other_and_can_talk() -> None:
    dialled, accepted = await shake(xk(ONE, TWO), xk(TWO))
    assert isinstance(dialled, SecureConnection)
    assert isinstance(accepted, SecureConnection)
    assert dialled.get_remote_peer().to_base58() == TWO.peer
    assert accepted.get_remote_peer().to_base58() == ONE.peer
    await dialled.write(b"ping")
    assert await accepted.read(4) == b"ping"
    await accepted.write(b"pong")
    assert await dialled.read(4) == b"pong"


async def test_it_is_a_secure_transport_of_libp2p() -> None:
    here, there = wire_pair()
    dialler, acceptor = xk(ONE, TWO), xk(TWO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialler.secure_outbound, here, ID.from_base58(TWO.peer))
        accepted = await acceptor.secure_inbound(there)
    assert accepted.get_remote_peer().to_base58() == ONE.peer


async def test_a_peer_whose_static_is_not_known_is_not_dialled() -> None:
    with pytest.raises(HandshakeFailure, match="not known"):
        await xk(ONE).dial(RawWire(wire_pair()[0]), TWO.peer, Transcript())


async def test_the_wrong_responder_key_gets_no_answer() -> None:
    wires = wire_pair()
    stale = NoiseXk(ONE, NETWORK, lambda peer: THREE.static, show_nothing, let_in)
    dialled, accepted = await shake(stale, xk(TWO), wires=wires)
    assert isinstance(dialled, Unanswered)
    assert "key may have changed" in str(dialled)
    assert isinstance(accepted, HandshakeFailure)


async def test_an_unusable_responder_key_is_refused_before_anything_is_sent() -> None:
    zero = NoiseXk(ONE, NETWORK, lambda peer: bytes(32), show_nothing, let_in)
    dialled, _ = await shake(zero, xk(TWO))
    assert isinstance(dialled, HandshakeFailure)


async def test_another_peer_that_answers_is_found_out() -> None:
    confused = NoiseXk(ONE, NETWORK, lambda peer: TWO.static, show_nothing, let_in)
    dialled, accepted = await shake(confused, xk(TWO), expected=THREE.peer)
    assert isinstance(dialled, WrongIdentity)
    assert isinstance(accepted, Disconnected)


def forged(own: Identity) -> Identity:
    """`own`, but with another's signature over its Noise key."""
    return _Forged(own._signer, own.statics)


class _Forged(Identity):
    def sign_static(self, static: bytes) -> bytes:
        return THREE.sign_static(static)


async def test_a_dialler_whose_static_was_signed_by_another_is_refused() -> None:
    dialled, accepted = await shake(xk(forged(ONE), TWO), xk(TWO))
    assert isinstance(dialled, Disconnected)
    assert isinstance(accepted, WrongIdentity)


async def test_an_acceptor_whose_static_was_signed_by_another_is_refused() -> None:
    dialled, accepted = await shake(xk(ONE, TWO), xk(forged(TWO)))
    assert isinstance(dialled, WrongIdentity)
    assert isinstance(accepted, Disconnected)


async def test_a_signature_over_an_older_static_does_not_cover_a_new_one() -> None:
    class Stale(Identity):
        def sign_static(self, static: bytes) -> bytes:
            return TWO.sign_static(TWO.static)

    stale = Stale(TWO._signer, THREE.statics)
    dialler = NoiseXk(ONE, NETWORK, lambda peer: THREE.static, show_nothing, let_in)
    dialled, _ = await shake(dialler, xk(stale))
    assert isinstance(dialled, WrongIdentity)


async def test_two_networks_do_not_speak_with_each_other() -> None:
    dialled, accepted = await shake(xk(ONE, TWO, network=NetworkId("cd" * 16)), xk(TWO))
    assert isinstance(dialled, Unanswered)
    assert isinstance(accepted, HandshakeFailure)


async def test_a_negotiation_that_was_edited_on_the_way_breaks_the_handshake() -> None:
    said, heard = Transcript(bytearray(b"a"), bytearray(b"b")), Transcript(bytearray(b"a"), bytearray(b"c"))
    dialled, accepted = await shake(xk(ONE, TWO), xk(TWO), transcripts=(said, heard))
    assert isinstance(dialled, Unanswered)
    assert isinstance(accepted, HandshakeFailure)


def test_bytes_cannot_be_moved_between_the_parts_of_the_prologue() -> None:
    assert prologue(NETWORK, Transcript(bytearray(b"ab"), bytearray(b"c"))) != prologue(
        NETWORK, Transcript(bytearray(b"a"), bytearray(b"bc"))
    )


async def test_a_stripped_proposal_breaks_the_handshake_of_the_whole_upgrade() -> None:
    """Somebody on the way makes the acceptor see another proposal first."""
    extra = only(0, lambda data: encode(HEADER) + encode("/better/1") + data.removeprefix(encode(HEADER)))

    def hide_refusal(number: int, data: bytes) -> bytes:
        return b"" if data == encode("na") else data

    wires = edited_pair(extra, hide_refusal)
    dialled: list[Outcome] = []
    accepted: list[Outcome] = []
    dial, accept = XkOnly(xk(ONE, TWO)), XkOnly(xk(TWO))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            attempt, lambda: dial.secure_outbound(wires[0], ID.from_base58(TWO.peer)), wires[0], dialled
        )
        nursery.start_soon(attempt, lambda: accept.secure_inbound(wires[1]), wires[1], accepted)
    assert isinstance(dialled[0], HandshakeFailure)
    assert isinstance(accepted[0], HandshakeFailure)


async def test_who_is_not_welcome_is_refused_after_it_has_proved_who_it_is() -> None:
    dialled, accepted = await shake(xk(ONE, TWO), xk(TWO, welcome=frozenset({THREE.peer})))
    assert isinstance(accepted, Unwelcome)
    assert ONE.peer in str(accepted)
    assert isinstance(dialled, TurnedAway)
    assert str(dialled) == "not on the list"


async def test_each_side_sees_what_the_other_shows_and_judges_it() -> None:
    judged: list[tuple[PeerId, bytes, bool]] = []

    def note(peer: PeerId, shown: bytes, dialled: bool) -> None:
        judged.append((peer, shown, dialled))

    dialler = NoiseXk(ONE, NETWORK, lambda peer: TWO.static, lambda: b"one's", note)
    acceptor = NoiseXk(TWO, NETWORK, lambda peer: None, lambda: b"two's", note)
    dialled, accepted = await shake(dialler, acceptor)
    assert isinstance(dialled, SecureConnection)
    assert isinstance(accepted, SecureConnection)
    assert (dialled.shown, accepted.shown) == (b"two's", b"one's")
    assert judged == [(ONE.peer, b"one's", False), (TWO.peer, b"two's", True)]


async def test_a_dialler_that_refuses_says_why_and_has_not_been_let_in_before() -> None:
    def refuse(peer: PeerId, shown: bytes, dialled: bool) -> None:
        raise Unauthenticated("your clock is 42 min ahead", peer)

    dialler = NoiseXk(ONE, NETWORK, lambda peer: TWO.static, show_nothing, refuse)
    dialled, accepted = await shake(dialler, xk(TWO))
    assert isinstance(dialled, Unwelcome)
    assert isinstance(accepted, TurnedAway)
    assert str(accepted) == "your clock is 42 min ahead"


async def test_a_prober_that_is_refused_is_shown_nothing() -> None:
    shown: list[bytes] = []

    def show() -> bytes:
        shown.append(b"who sponsors whom")
        return shown[-1]

    for judge, often in ((refuse_all, 0), (let_in, 1)):
        await shake(xk(ONE, TWO), NoiseXk(TWO, NETWORK, lambda peer: None, show, judge))
        assert len(shown) == often


def refuse_all(peer: PeerId, shown: bytes, dialled: bool) -> None:
    raise Unauthenticated("\x1b[2J" + "no" * 400, peer)


async def test_a_refusal_is_cut_to_its_limit_and_holds_nothing_that_moves_a_terminal() -> None:
    acceptor = NoiseXk(TWO, NETWORK, lambda peer: None, show_nothing, refuse_all)
    dialled, _ = await shake(xk(ONE, TWO), acceptor)
    assert isinstance(dialled, TurnedAway)
    assert len(str(dialled)) == REFUSAL_BYTES_MAX
    assert str(dialled).isprintable()


async def test_an_acceptor_is_good_for_its_last_two_statics_and_no_older_one() -> None:
    rotating = identity(2)
    acceptor = NoiseXk(rotating, NETWORK, lambda peer: None, show_nothing, let_in)
    known = [rotating.static]
    for number in (50, 51):
        rotating.replace_static(static_key(bytes([number]) * 32, 0))
        known.append(rotating.static)
    for static, is_good in zip(known, (False, True, True), strict=True):
        dialler = NoiseXk(ONE, NETWORK, lambda peer, static=static: static, show_nothing, let_in)
        dialled, accepted = await shake(dialler, acceptor)
        assert isinstance(accepted, SecureConnection) is is_good
        assert isinstance(dialled, SecureConnection if is_good else Unanswered)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\0", b"\0\x05abc", b"\xff\xff", b"\0\0" + bytes(limits.SHOWN_BYTES_MAX + 1)],
)
async def test_a_last_message_that_is_cut_short_or_shows_too_much_is_refused(
    payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_xk, "_join", lambda proof, shown: payload)
    _, accepted = await shake(xk(ONE, TWO), xk(TWO))
    assert isinstance(accepted, FAILURES)


@pytest.mark.parametrize("frame", [b"\0\0", b"\xff\xff", b"\0\5", b""])
async def test_a_verdict_that_is_none_ends_the_handshake(
    frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write_nonsense(secured: SecureConnection, body: bytes) -> None:
        await secured.write(frame)
        await secured.close()

    monkeypatch.setattr(noise_xk, "_write_frame", write_nonsense)
    for outcome in await shake(xk(ONE, TWO), xk(TWO)):
        assert isinstance(outcome, FAILURES)


async def test_a_node_does_not_let_itself_in() -> None:
    _, accepted = await shake(xk(TWO, TWO), xk(TWO))
    assert isinstance(accepted, Unwelcome)


@pytest.mark.parametrize(("side", "message"), [("dialler", 0), ("acceptor", 0), ("dialler", 1)])
@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:2] + bytes([data[2] ^ 1]) + data[3:],
        lambda data: (len(data) - 3).to_bytes(2, "big") + data[2:-1],
        lambda data: (len(data) - 1).to_bytes(2, "big") + data[2:] + b"\0",
        lambda data: b"\0\0",
        lambda data: b"\0\x2f" + data[2:49],
        lambda data: (MESSAGE_BYTES_MAX + 1).to_bytes(2, "big") + bytes(MESSAGE_BYTES_MAX + 1),
        lambda data: b"\xff\xff" + bytes(65_535),
        lambda data: data[:2] + bytes(len(data) - 2),  # an ephemeral key of zeros
        lambda data: b"\x00\x30" + bytes([1]) + bytes(47),  # a point of low order
    ],
)
async def test_an_edited_message_ends_the_handshake_on_both_sides(
    side: str, message: int, edit: Callable[[bytes], bytes]
) -> None:
    changed = only(message, edit)
    wires = edited_pair(changed, as_sent) if side == "dialler" else edited_pair(as_sent, changed)
    dialled, accepted = await shake(xk(ONE, TWO), xk(TWO), wires=wires)
    assert isinstance(accepted, FAILURES)
    if message == 0:  # the dialler's part ends with its second message, and it learns of this from the end
        assert isinstance(dialled, FAILURES)


@pytest.mark.parametrize("message", [0, 1])
async def test_a_message_cut_short_by_the_end_ends_the_handshake(message: int) -> None:
    for length in range(0, 60, 7):
        here, there = edited_pair(only(message, lambda data, length=length: data[:length]), as_sent)
        accepted: list[Outcome] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                attempt, lambda there=there: xk(TWO).accept(RawWire(there), Transcript()), there, accepted
            )
            if message:
                nursery.start_soon(
                    attempt,
                    lambda here=here: xk(ONE, TWO).dial(RawWire(here), TWO.peer, Transcript()),
                    here,
                    [],
                )
            else:
                await _send_half(here, length)
            await wait_all_tasks_blocked()
            await here.close()
        assert isinstance(accepted[0], FAILURES)


async def _send_half(here: MemoryWire, length: int) -> None:
    await here.write(bytes([0, 48, *bytes(60)])[:length])


class _Recorder(MemoryWire):
    def __init__(self) -> None:
        super().__init__(True)
        self.recorded: list[bytes] = []

    async def write(self, data: bytes) -> None:
        self.recorded.append(data)
        await super().write(data)


async def recorded_handshake() -> list[bytes]:
    """What a dialler sent in a handshake that succeeded."""
    here, there = _Recorder(), MemoryWire(False)
    here.other, there.other = there, here
    _, accepted = await shake(xk(ONE, TWO), xk(TWO), wires=(here, there))
    assert isinstance(accepted, SecureConnection)
    return here.recorded


async def test_a_replayed_first_message_gets_an_answer_and_nothing_else() -> None:
    opening, closing, _ = await recorded_handshake()
    acceptor = xk(TWO)
    for _ in range(20):
        here, there = wire_pair()
        accepted: list[Outcome] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                attempt, lambda there=there: acceptor.accept(RawWire(there), Transcript()), there, accepted
            )
            await here.write(opening)
            await RawWire(here).read_exactly(2)
            await here.write(closing)  # the whole handshake, again
        assert isinstance(accepted[0], HandshakeFailure)
    assert isinstance((await shake(xk(ONE, TWO), acceptor))[1], SecureConnection)


async def test_after_an_error_a_new_attempt_starts_afresh() -> None:
    dialler, acceptor = xk(ONE, TWO), xk(TWO)
    broken = edited_pair(only(0, lambda data: data[:-1] + bytes([data[-1] ^ 1])), as_sent)
    assert isinstance((await shake(dialler, acceptor, wires=broken))[1], HandshakeFailure)
    dialled, accepted = await shake(dialler, acceptor)
    assert isinstance(dialled, SecureConnection)
    assert isinstance(accepted, SecureConnection)


@pytest.mark.parametrize("is_dialler", [True, False])
async def test_silence_ends_the_handshake_in_time(is_dialler: bool, autojump_clock: MockClock) -> None:
    here, _ = wire_pair()
    security = XkOnly(xk(ONE, TWO))
    began_s = trio.current_time()
    with pytest.raises(HandshakeFailure, match="too long"):
        await (
            security.secure_outbound(here, ID.from_base58(TWO.peer))
            if is_dialler
            else security.secure_inbound(here)
        )
    assert trio.current_time() - began_s == pytest.approx(limits.HANDSHAKE_S)


async def test_one_byte_per_second_is_not_fast_enough(autojump_clock: MockClock) -> None:
    here, there = wire_pair()

    async def drip() -> None:
        for byte in encode(HEADER) + encode(PROTOCOL_ID):
            await trio.sleep(1)
            await there.write(bytes([byte]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(HandshakeFailure, match="too long"):
            await XkOnly(xk(TWO)).secure_inbound(here)
        nursery.cancel_scope.cancel()


@given(st.binary(max_size=600), st.booleans())
def test_whatever_a_dialler_sends_ends_in_a_handshake_failure(data: bytes, is_negotiated: bool) -> None:
    async def run() -> None:
        here, there = wire_pair()
        there.piece_bytes = None
        opening = encode(HEADER) + encode(PROTOCOL_ID) if is_negotiated else b""
        await here.write(opening + data)
        here.sent.close()
        here.pump()
        with pytest.raises(HandshakeFailure):
            await XkOnly(xk(TWO)).secure_inbound(there)

    trio.run(run)
