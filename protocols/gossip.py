"""What members spread among each other: items in signed bundles, and the messages between two neighbours.

An author signs a bundle once, over the bytes of its encoding (`BUNDLE_DOMAIN` and the network's id are the domain), and
relays pass those bytes on as they are. Its id is the head of their sha256. In the messages, several ids are one byte string:
it is smaller, and decoded at once.

    opener              acceptor
    Join  ------------>           may we be neighbours?
          <------------ Welcome   (or Full, and the end)
    Push  <----------->           a bundle, along its author's tree
    Have  <----------->           ids of bundles, beside the tree; Graft asks for them and makes the link a branch of it
    Prune <----------->           this link is no branch of an author's tree
    Digest ----------->           repair: a sum for each bucket of ids ...
          <------------ Listing   ... the ids in those buckets that differ ...
    Want, Push ------->           ... and what one of the two lacks
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, NewType

import msgspec

from protocols import limits
from protocols.errors import Malformed
from protocols.ids import NetworkId, PeerId
from protocols.membership import PeerIdText
from protocols.messages import Codec

BUNDLE_DOMAIN: Final = "weft-gossip-1"
ID_BYTES: Final = 16
SUM_BYTES: Final = 8
HOPS_REPAIRED: Final = 255  # of a bundle that comes by repair and not along the tree

BundleId = NewType("BundleId", bytes)
"""The first 16 bytes of the sha256 of a bundle's encoding."""


class Topic(IntEnum):
    """What an item is about. Numbers of later minors are passed over."""

    RECORD = 1
    HEALTH = 2
    OBSERVATIONS = 3
    CLAIMS = 4
    LIVENESS = 5
    REVOCATION = 6
    MODELS = 7


@dataclass(frozen=True, slots=True)
class Heard:
    """An author's word under (topic, key). An empty body says that it is withdrawn; `made_ms` is the author's wall clock."""

    author: PeerId
    topic: Topic
    key: str
    body: bytes
    made_ms: int
    sequence: int


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Key = Annotated[str, msgspec.Meta(max_length=limits.GOSSIP_KEY_CHARS_MAX)]
_ItemBody = Annotated[bytes, msgspec.Meta(max_length=limits.GOSSIP_ITEM_BYTES_MAX)]
_BundleBody = Annotated[bytes, msgspec.Meta(max_length=limits.GOSSIP_BUNDLE_BYTES_MAX)]
_Ttl = Annotated[int, msgspec.Meta(ge=1, le=limits.GOSSIP_TTL_S_MAX)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
_Ids = Annotated[bytes, msgspec.Meta(max_length=limits.GOSSIP_IDS_MAX * ID_BYTES)]
_PerId = Annotated[bytes, msgspec.Meta(max_length=limits.GOSSIP_IDS_MAX)]
_Sums = Annotated[bytes, msgspec.Meta(min_length=SUM_BYTES, max_length=limits.GOSSIP_BUCKETS_MAX * SUM_BYTES)]
_Buckets = Annotated[bytes, msgspec.Meta(max_length=limits.GOSSIP_BUCKETS_MAX)]


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One word; `ttl_s` counts from the time its bundle was made."""

    topic: _Byte
    key: _Key
    body: _ItemBody
    ttl_s: _Ttl


class Bundle(msgspec.Struct, frozen=True, array_like=True):
    """What an author said within a moment. Sequences of one author rise; they begin at its wall clock in ms."""

    author: PeerIdText
    sequence: _Count
    made_ms: _Count
    items: Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=limits.GOSSIP_ITEMS_MAX)]


class Join(msgspec.Struct, frozen=True, array_like=True, tag="join"):
    """`urgent`: the asker has no neighbour at all."""

    urgent: bool


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The link stands."""


class Full(msgspec.Struct, frozen=True, array_like=True, tag="full"):
    """No room; the stream ends."""


class Push(msgspec.Struct, frozen=True, array_like=True, tag="push"):
    """A bundle's bytes and its author's signature, `hops` links away from the author."""

    hops: _Byte
    body: _BundleBody
    signature: _Signature


class Have(msgspec.Struct, frozen=True, array_like=True, tag="have"):
    """Bundles that the sender holds, and the hops of each."""

    ids: _Ids
    hops: _PerId


class Graft(msgspec.Struct, frozen=True, array_like=True, tag="graft"):
    """From now on push what comes from the authors of these; and these too, unless they are here."""

    ids: _Ids
    is_here: bool


class Prune(msgspec.Struct, frozen=True, array_like=True, tag="prune"):
    """What you push of this author comes to me from elsewhere sooner: only announce it."""

    author: PeerIdText


class Digest(msgspec.Struct, frozen=True, array_like=True, tag="digest"):
    """For every bucket of ids, eight bytes each: the exclusive or of the ids in it."""

    sums: _Sums


class Listing(msgspec.Struct, frozen=True, array_like=True, tag="listing"):
    """All that the sender holds in `buckets` out of `count`."""

    count: Annotated[int, msgspec.Meta(ge=1, le=limits.GOSSIP_BUCKETS_MAX)]
    buckets: _Buckets
    ids: _Ids


class Want(msgspec.Struct, frozen=True, array_like=True, tag="want"):
    """Send these as repaired."""

    ids: _Ids


GossipMessage = Join | Welcome | Full | Push | Have | Graft | Prune | Digest | Listing | Want
GOSSIP_CODEC: Final[Codec[GossipMessage]] = Codec(GossipMessage)

_BUNDLES: Final[msgspec.msgpack.Decoder[Bundle]] = msgspec.msgpack.Decoder(Bundle)


def bundle_domain(network_id: NetworkId) -> str:
    """Under which the bundles of one network are signed."""
    return f"{BUNDLE_DOMAIN} {network_id}"


def encode_bundle(bundle: Bundle) -> bytes:
    return msgspec.msgpack.encode(bundle)


def decode_bundle(body: bytes) -> Bundle:
    """Raises `Malformed`, also when two items have the same topic and key."""
    try:
        bundle = _BUNDLES.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Malformed(f"undecodable bundle: {error}") from error
    if len({(item.topic, item.key) for item in bundle.items}) != len(bundle.items):
        raise Malformed("a bundle says two things under one key")
    return bundle


def id_of(body: bytes) -> BundleId:
    return BundleId(hashlib.sha256(body).digest()[:ID_BYTES])


def join_ids(ids: Sequence[BundleId]) -> bytes:
    return b"".join(ids)


def split_ids(joined: bytes) -> list[BundleId]:
    """Raises `Malformed` for a part of one."""
    if len(joined) % ID_BYTES:
        raise Malformed("a list of ids ends inside one")
    return [BundleId(joined[start : start + ID_BYTES]) for start in range(0, len(joined), ID_BYTES)]
