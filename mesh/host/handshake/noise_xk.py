"""Noise XK: `Noise_XK_25519_ChaChaPoly_SHA256`, with identities as libp2p-noise proves them, and what proves membership.

    dialler (knows the acceptor's static)            acceptor
      | -> e, es                                ---->  |   48 bytes, no payload: a replay of it changes nothing
      |  <----              <- e, ee + its identity    |   the dialler checks that it is the peer it meant
      | -> s, se + its identity + what it shows  --->  |   hidden from everybody but the holder of the static
      |  <----   its verdict + what it shows           |   the first encrypted frame
      | -> its verdict                          ---->  |   goes out together with what follows

Each identity payload is libp2p-noise's protobuf: the Ed25519 key and its signature over the static that this very handshake
uses. The prologue binds the network and the negotiation that led here, so that neither can be changed on the way. A
handshake has one state object, which is thrown away with the connection on any error.

The acceptor shows its certificates in the first frame rather than in the second message: by then it knows whom it shows
them to, so that a prober who got hold of an invite does not learn who sponsors whom; and a verdict has to be told there
anyway, if the dialler is to log why it was refused. It costs half a round trip once per connection.

An acceptor is good for its last two statics. Which one the dialler knows shows in the first message alone, so that is tried
with a fresh state for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PublicKey
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from noise.connection import Keypair, NoiseConnection

from mesh.admission.identity import Identity, StaticKey
from mesh.host.handshake.negotiation import Transcript
from mesh.host.handshake.noise import (
    WrongIdentity,
    proof_of,
    proven_peer,
    read_message,
    receive_message,
    send_message,
    write_message,
)
from mesh.host.wire.framing import RAW_ERRORS, RawWire, SecureConnection
from protocols import limits
from protocols.errors import Disconnected, Unauthenticated, WeftError
from protocols.ids import NetworkId, PeerId

PROTOCOL_ID: Final = "/weft/noise-xk/1"
PATTERN: Final = b"Noise_XK_25519_ChaChaPoly_SHA256"
OPENING_BYTES: Final = 48  # an ephemeral key and the tag of an empty payload
PROOF_BYTES_MAX: Final = 512  # identity payloads take about 120
MESSAGE_BYTES_MAX: Final = 128 + PROOF_BYTES_MAX + limits.SHOWN_BYTES_MAX
REFUSAL_BYTES_MAX: Final = 256
ACCEPTED: Final = b"\0"
REFUSED: Final = b"\1"


class Unanswered(HandshakeFailure):
    """The acceptor went away on the first message, as one does that can't read it."""


class Unwelcome(HandshakeFailure):
    """The other side is who it says, and this node does not let it in."""


class TurnedAway(HandshakeFailure):
    """The other side does not let this node in; it has said why."""


Judge = Callable[[PeerId, bytes, bool], None]
"""(peer, what it showed, whether this node dialled it). Raises `WeftError`, whose sentence the peer is told."""


class NoiseXk(ISecureTransport):
    """The handshake in both roles. `static_of` tells a peer's static key; `show` what this node shows; `judge` is asked
    about everybody who has proved who it is."""

    def __init__(
        self,
        identity: Identity,
        network_id: NetworkId,
        static_of: Callable[[PeerId], bytes | None],
        show: Callable[[], bytes],
        judge: Judge,
    ) -> None:
        self._identity = identity
        self._network_id = network_id
        self._static_of = static_of
        self._show = show
        self._judge = judge
        self._proofs: dict[bytes, bytes] = {}  # by static, of which there is a new one every month
        self._local_key = create_new_key_pair(identity.signing_seed).private_key

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self.accept(RawWire(conn), Transcript())

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return await self.dial(RawWire(conn), PeerId(peer_id.to_base58()), Transcript())

    async def dial(self, wire: RawWire, peer: PeerId, transcript: Transcript) -> SecureConnection:
        """Raises `HandshakeFailure` and `Disconnected`: `WrongIdentity` if somebody else answered, `Unwelcome` if it is no
        member, `TurnedAway` if it does not let this node in."""
        static = self._static_of(peer)
        if static is None:
            raise HandshakeFailure(f"the Noise key of {peer} is not known")
        own = self._identity.statics[0]
        state = self._begin(transcript, own, static)
        await send_message(wire, write_message(state))
        proof = read_message(state, await self._answer(wire, peer))
        if proven_peer(proof, static) != peer:
            raise WrongIdentity(f"another peer than {peer} answered")
        await send_message(wire, write_message(state, _join(self._proof(own), self._show())))
        secured = self._secured(wire, state, peer, static)
        secured.shown = await _hear_verdict(secured)
        await self._tell_verdict(secured, peer, dialled=True)
        return secured

    async def _answer(self, wire: RawWire, peer: PeerId) -> bytes:
        try:
            return await receive_message(wire, MESSAGE_BYTES_MAX)
        except Disconnected as error:
            raise Unanswered(
                f"{peer} does not answer with the Noise key that is known of it: the key may have changed since"
            ) from error

    async def accept(self, wire: RawWire, transcript: Transcript) -> SecureConnection:
        """Raises `HandshakeFailure` and `Disconnected`: `Unwelcome` if policy refuses the peer, `TurnedAway` if it refuses
        this node."""
        opening = await receive_message(wire, OPENING_BYTES)
        if len(opening) != OPENING_BYTES:
            raise HandshakeFailure("the first handshake message has the wrong length")
        state, own = self._open(transcript, opening)
        handshake = state.noise_protocol.handshake_state  # the library lets go of it at the last message
        await send_message(wire, write_message(state, self._proof(own)))
        proof, shown = _split(read_message(state, await receive_message(wire, MESSAGE_BYTES_MAX)))
        static: bytes = handshake.rs.public_bytes
        peer = proven_peer(proof, static)
        secured = self._secured(wire, state, peer, static)
        secured.shown = shown
        await self._tell_verdict(secured, peer, dialled=False)
        await _hear_verdict(secured)
        return secured

    def _open(self, transcript: Transcript, opening: bytes) -> tuple[NoiseConnection, StaticKey]:
        """The state that could read the first message, and the static that it was meant for."""
        statics = self._identity.statics
        for own in statics:
            state = self._begin(transcript, own, None)
            try:
                read_message(state, opening)
            except HandshakeFailure:
                if own is statics[-1]:
                    raise
                continue
            return state, own
        raise AssertionError("an identity has a static")

    async def _tell_verdict(self, secured: SecureConnection, peer: PeerId, *, dialled: bool) -> None:
        """Judge the other side and tell it. Raises `Unwelcome`."""
        try:
            if peer == self._identity.peer:
                raise Unauthenticated("a node does not connect to itself", peer)
            self._judge(peer, secured.shown, dialled)
        except WeftError as error:
            await _write_frame(secured, REFUSED + str(error).encode()[:REFUSAL_BYTES_MAX])
            raise Unwelcome(f"{peer} is not let in: {error}") from error
        await _write_frame(secured, ACCEPTED + (b"" if dialled else self._show()))

    def _proof(self, own: StaticKey) -> bytes:
        known = self._proofs.get(own.public)
        if known is None:
            known = self._proofs[own.public] = proof_of(self._identity, own.public)
        return known

    def _begin(
        self, transcript: Transcript, own: StaticKey, responder_static: bytes | None
    ) -> NoiseConnection:
        state = NoiseConnection.from_name(PATTERN)
        state.set_prologue(prologue(self._network_id, transcript))
        state.set_keypair_from_private_bytes(Keypair.STATIC, own.private)
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
            rekey_frames=limits.REKEY_FRAMES,
        )


def prologue(network_id: NetworkId, transcript: Transcript) -> bytes:
    """What both sides must agree on before the first key is mixed; all parts have fixed lengths."""
    return b"weft/xk/1" + b"".join(
        hashlib.sha256(part).digest()
        for part in (network_id.encode(), transcript.dialler, transcript.acceptor)
    )


def _join(proof: bytes, shown: bytes) -> bytes:
    assert len(shown) <= limits.SHOWN_BYTES_MAX
    return len(proof).to_bytes(2, "big") + proof + shown


def _split(payload: bytes) -> tuple[bytes, bytes]:
    """The identity's proof and what the other side shows; raises `WrongIdentity`."""
    end = 2 + int.from_bytes(payload[:2], "big")
    if end > len(payload) or len(payload) - end > limits.SHOWN_BYTES_MAX:
        raise WrongIdentity("the identity payload is cut short, or shows too much")
    return payload[2:end], payload[end:]


async def _write_frame(secured: SecureConnection, body: bytes) -> None:
    try:
        await secured.write(len(body).to_bytes(2, "big") + body)
    except RAW_ERRORS as error:
        raise Disconnected("the connection broke before the verdict") from error


async def _hear_verdict(secured: SecureConnection) -> bytes:
    """What the other side shows, if it lets this one in. Raises `TurnedAway`, `HandshakeFailure` and `Disconnected`."""
    try:
        length = int.from_bytes(await secured.read(2), "big")
        if not 0 < length <= 1 + limits.SHOWN_BYTES_MAX:
            raise HandshakeFailure(f"a verdict of {length} bytes is none")
        body = await secured.read(length)
    except RAW_ERRORS as error:
        raise Disconnected("the other side closed the connection without a verdict") from error
    if body[:1] == ACCEPTED:
        return bytes(body[1:])
    said = bytes(body[1 : 1 + REFUSAL_BYTES_MAX]).decode("utf-8", "replace")
    raise TurnedAway("".join(each if each.isprintable() else "?" for each in said))
