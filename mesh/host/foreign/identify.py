"""`/ipfs/id/1.0.0`: a peer says what it is called, what it speaks and where it listens, and what the asker's address looks
like from there. One protobuf, with its length as a varint before it; the peer then closes the stream.

What comes back is a peer's own word about itself, and is shown to people as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from multiaddr import Multiaddr

from mesh.host.handshake.negotiation import Wire
from mesh.host.handshake.noise import PUBLIC_KEY_HEAD
from protocols import limits
from protocols.errors import Malformed, Oversized

PROTOCOL_ID: Final = "/ipfs/id/1.0.0"
PROTOCOL_VERSION: Final = "ipfs/0.1.0"  # as everybody says who speaks it
_LENGTH_BYTES_MAX: Final = 3
_TEXT_LENGTH_MAX: Final = 128
_PROTOCOLS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Identification:
    """Of a peer; printable, and cut to what is of use."""

    agent: str
    protocols: tuple[str, ...]


def encode(
    public_key: bytes, agent: str, protocols: Sequence[str], listen: Sequence[str], observed: str
) -> bytes:
    """The message with its length; `observed` may be empty."""
    body: bytes = Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=PUBLIC_KEY_HEAD + public_key,
        listen_addrs=[Multiaddr(each).to_bytes() for each in listen],
        observed_addr=Multiaddr(observed).to_bytes() if observed else b"",
        protocols=protocols,
    ).SerializeToString()
    return _varint(len(body)) + body


async def read(wire: Wire) -> Identification:
    """A peer's message. Raises `Malformed`, `Oversized` and `Disconnected`; the deadline is the caller's."""
    length = await _read_varint(wire)
    if length > limits.IDENTIFY_BYTES_MAX:
        raise Oversized(f"an identify message of {length} bytes")
    return decode(await wire.read_exactly(length))


def decode(body: bytes) -> Identification:
    """Raises `Malformed`."""
    try:
        message = Identify.FromString(body)
    except DecodeError as error:
        raise Malformed("an identify message that does not decode") from error
    agent, protocols = message.agent_version, message.protocols[:_PROTOCOLS_MAX]
    # What is no UTF-8 is handed out as bytes, whatever the annotations say.
    if not all(isinstance(each, str) for each in (agent, *protocols)):
        raise Malformed("an identify message with a text that is none")
    return Identification(_printable(agent), tuple(_printable(each) for each in protocols))


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text[:_TEXT_LENGTH_MAX])


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


async def _read_varint(wire: Wire) -> int:
    number = 0
    for at in range(_LENGTH_BYTES_MAX):
        byte = (await wire.read_exactly(1))[0]
        number |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return number
    raise Malformed("an identify message of no sensible length")
