"""Node records: what a node says of itself, signed, so that it can be handed on by anybody.

    SignedRecord(record = the encoded NodeRecord, signature over "weft-record-1", 0x00, record)

The record travels as the bytes that were signed, so that a node hands on fields of a later minor which it does not know
itself. A record is bounded before it is decoded; its times are wall-clock seconds since the epoch.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from protocols import limits
from protocols.addresses import TEXT_LENGTH_MAX, parse_address
from protocols.errors import Malformed, Oversized
from protocols.ids import NetworkId
from protocols.membership import Key, PeerIdText
from protocols.messages import Codec

RECORD_DOMAIN: Final = "weft-record-1"

_NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f]*\Z"  # these texts are shown on terminals
LABEL_PATTERN: Final = (
    r"^[a-z][a-z0-9_.-]{0,23}=[\x21-\x2b\x2d-\x3c\x3e-\x7e]+\Z"  # printable ASCII but for "," and "="
)

Address = Annotated[str, msgspec.Meta(max_length=TEXT_LENGTH_MAX)]
Addresses = Annotated[tuple[Address, ...], msgspec.Meta(max_length=limits.ADDRESSES_MAX)]
Label = Annotated[str, msgspec.Meta(max_length=limits.LABEL_LENGTH_MAX, pattern=LABEL_PATTERN)]
DeviceKind = Annotated[str, msgspec.Meta(max_length=24, pattern=r"^[a-z0-9_-]+\Z")]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Capabilities(msgspec.Struct, frozen=True, array_like=True):
    """What a node could do. `worker_bytes` is what its worker may take, `layers_max` its operator's cap (0: none),
    `devices` kinds such as "cpu" or "cuda", `minor` the protocol minor that it speaks."""

    cores: Count = 0
    memory_bytes: Count = 0
    worker_bytes: Count = 0
    accepts_offers: bool = True
    layers_max: Count = 0
    devices: Annotated[tuple[DeviceKind, ...], msgspec.Meta(max_length=8)] = ()
    minor: Count = 0


class NodeRecord(msgspec.Struct, frozen=True, array_like=True):
    """A node about itself. Of two the higher `sequence` counts.

    `statics` are its X25519 keys, newest first; `chain` the encoded certificates that make it a member.
    """

    peer: PeerIdText
    network: Annotated[NetworkId, msgspec.Meta(max_length=64)]
    sequence: Count
    issued_s: Count
    expires_s: Count
    control: Addresses
    data: Addresses
    statics: Annotated[tuple[Key, ...], msgspec.Meta(min_length=1, max_length=2)]
    name: Annotated[str, msgspec.Meta(max_length=64, pattern=_NO_CONTROLS)] = ""
    labels: Annotated[tuple[Label, ...], msgspec.Meta(max_length=limits.LABELS_MAX)] = ()
    capabilities: Capabilities = Capabilities()
    chain: Annotated[bytes, msgspec.Meta(max_length=limits.CHAIN_BYTES_MAX)] = b""


class SignedRecord(msgspec.Struct, frozen=True, array_like=True):
    """Body of a gossip item, entry of a join answer, line of the address book."""

    record: Annotated[bytes, msgspec.Meta(max_length=limits.RECORD_BYTES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


_RECORD: Final[Codec[NodeRecord]] = Codec(NodeRecord)
_SIGNED: Final[Codec[SignedRecord]] = Codec(SignedRecord)
_SIGNED_BYTES_MAX: Final = limits.RECORD_BYTES_MAX + 128


def encode_record(record: NodeRecord) -> bytes:
    """What is signed."""
    return _RECORD.encode(record)


def decode_record(data: bytes) -> NodeRecord:
    """Raises `Oversized` before it decodes anything, `Malformed` for what a node could not say of itself."""
    if len(data) > limits.RECORD_BYTES_MAX:
        raise Oversized(f"a node record of {len(data)} bytes; {limits.RECORD_BYTES_MAX} are allowed")
    record = _RECORD.decode(data)
    for address in (*record.control, *record.data):
        parse_address(address)
    if len({label.partition("=")[0] for label in record.labels}) < len(record.labels):
        raise Malformed("a node record with two labels of one key")
    return record


def encode_signed(signed: SignedRecord) -> bytes:
    return _SIGNED.encode(signed)


def decode_signed(data: bytes) -> SignedRecord:
    """Nothing is verified. Raises `Oversized` or `Malformed`."""
    if len(data) > _SIGNED_BYTES_MAX:
        raise Oversized(f"a signed record of {len(data)} bytes; {_SIGNED_BYTES_MAX} are allowed")
    return _SIGNED.decode(data)
