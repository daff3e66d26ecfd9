"""What a member says that keeps no rules: records of peers that it has made up, and any bundle in anybody's name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from mesh.admission.identity import Identity, identity_from_keys
from mesh.admission.signatures import sign_statement
from mesh.directory.records import OwnRecord, Particulars
from mesh.members.driver import Members
from protocols.certificates import Chain, encode_chain
from protocols.gossip import Bundle, Item, Push, Topic, bundle_domain, encode_bundle
from protocols.ids import NetworkId
from protocols.records import encode_signed

NOWHERE = ("/ip4/10.99.0.1/tcp/1", "/ip4/10.99.0.2/tcp/1")


def invented(number: int) -> Identity:
    """Nobody's, in any number."""
    return identity_from_keys(
        hashlib.sha256(f"invented {number}".encode()).digest(), hashlib.sha256(b"one for all").digest(), 0.0
    )


def bundle_of(author: Identity, network: NetworkId, made_s: float, *items: Item) -> Push:
    made_ms = int(made_s * 1000)
    body = encode_bundle(Bundle(author.peer, made_ms, made_ms, items))
    return Push(1, body, sign_statement(author, bundle_domain(network), body))


def record_item(author: Identity, network: NetworkId, chain: Chain, now_s: float) -> Item:
    particulars = Particulars(
        NOWHERE, NOWHERE, tuple(key.public for key in author.statics), "nobody", chain=encode_chain(chain)
    )
    signed = OwnRecord(author, network).renew(particulars, now_s)
    assert signed is not None
    return Item(Topic.RECORD, "", encode_signed(signed), 3600)


def record_of(author: Identity, network: NetworkId, chain: Chain, now_s: float) -> Push:
    return bundle_of(author, network, now_s, record_item(author, network, chain, now_s))


def spread(rogue: Members, pushes: Iterable[Push]) -> None:
    """Say to all neighbours what a member that keeps the rules would not pass on."""
    for push in pushes:
        rogue.gossip._send(rogue.gossip.neighbours, push)
    rogue.gossip._flush()


def sizes(members: Members) -> tuple[int, int, int]:
    """How many peers there are in its address book, at its door and in its table of gossip."""
    return (
        len(members.members()),
        len(members._papers.door._chains),
        members.gossip._machine.size[0],
    )
