"""multistream-select, bounded: which protocol a connection or a stream speaks.

    dialler                                      acceptor
      | /multistream/1.0.0, /the/protocol  --->   |
      |  <---  /multistream/1.0.0                 |
      |  <---  /the/protocol, or na               |   after na another may be proposed

Each message is one length byte, the text, and a newline. The dialler sends both of its messages at once, so that agreeing
costs one round trip. py-libp2p's own reader takes any length and any bytes, which strangers must not be offered.

The exact bytes that went each way are handed back: over an unencrypted connection they go into the Noise prologue, so that
whoever edits them on the way breaks the handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from protocols.errors import Malformed, NoRoute

HEADER: Final = "/multistream/1.0.0"
REFUSAL: Final = "na"
MESSAGE_BYTES_MAX: Final = 127  # one varint byte
PROPOSALS_MAX: Final = 8


class Wire(Protocol):
    """What negotiation needs of a connection or stream; both raise `Disconnected` when it has ended."""

    async def read_exactly(self, count: int) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


@dataclass(slots=True)
class Transcript:
    """What the dialler and the acceptor sent, byte for byte."""

    dialler: bytearray = field(default_factory=bytearray)
    acceptor: bytearray = field(default_factory=bytearray)


async def propose(wire: Wire, protocol: str) -> Transcript:
    """Agree on `protocol` as the dialler. Raises `NoRoute` if it is refused, `Malformed`, `Disconnected`."""
    transcript = Transcript()
    opening = encode(HEADER) + encode(protocol)
    transcript.dialler += opening
    await wire.write(opening)
    if await _read(wire, transcript.acceptor) != HEADER:
        raise Malformed("the other side does not speak multistream")
    answer = await _read(wire, transcript.acceptor)
    if answer == REFUSAL:
        raise NoRoute(f"the other side does not speak {protocol}")
    if answer != protocol:
        raise Malformed("the other side answered for another protocol")
    return transcript


async def accept(wire: Wire, is_spoken: Callable[[str], bool]) -> tuple[str, Transcript]:
    """The first proposed protocol that `is_spoken`, as the acceptor. Raises `Malformed`, `Disconnected`."""
    transcript = Transcript()
    if await _read(wire, transcript.dialler) != HEADER:
        raise Malformed("the dialler does not speak multistream")
    await _write(wire, HEADER, transcript.acceptor)
    for _ in range(PROPOSALS_MAX):
        protocol = await _read(wire, transcript.dialler)
        if is_spoken(protocol):
            await _write(wire, protocol, transcript.acceptor)
            return protocol, transcript
        await _write(wire, REFUSAL, transcript.acceptor)
    raise Malformed(f"none of {PROPOSALS_MAX} proposed protocols is spoken here")


def encode(text: str) -> bytes:
    line = text.encode() + b"\n"
    assert len(line) <= MESSAGE_BYTES_MAX
    return bytes((len(line),)) + line


async def _write(wire: Wire, text: str, record: bytearray) -> None:
    message = encode(text)
    record += message
    await wire.write(message)


async def _read(wire: Wire, record: bytearray) -> str:
    length = await wire.read_exactly(1)
    if not 0 < length[0] <= MESSAGE_BYTES_MAX:
        raise Malformed("a negotiation message of that length is not allowed")
    line = await wire.read_exactly(length[0])
    record += length + line
    if not line.endswith(b"\n") or not line.isascii():
        raise Malformed("a negotiation message is no line of text")
    return line[:-1].decode()
