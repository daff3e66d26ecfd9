"""Who is let in: keys and certificates."""

from __future__ import annotations

from collections.abc import Iterator

from protocols.ids import PeerId
from simulations.invariants.bounds import REVOKED_S
from simulations.invariants.invariant import Breach, always, settled
from simulations.invariants.mesh import Mesh

LOOK_S = 1.0


@always("S7", "Whoever counts as a member has a certificate of this network.", every_s=5.0)
def members_are_certified(mesh: Mesh) -> Iterator[Breach]:
    bare = {sight.peer for sight in mesh.sights.values() if not sight.chain}
    certified = mesh.peers.keys() - bare
    for sight in mesh.sights.values():
        for end in sight.connections:
            if end.is_member and end.peer not in certified:
                yield Breach((sight.name,), f"{mesh.name_of(end.peer)} is connected as a member")


@always("S7", "No two machines run as one peer.", every_s=LOOK_S)
def identities_are_single(mesh: Mesh) -> Iterator[Breach]:
    names: dict[PeerId, str] = {}
    for sight in mesh.sights.values():
        if sight.peer in names:
            yield Breach((names[sight.peer], sight.name), f"both are {sight.peer}")
        names[sight.peer] = sight.name


@always("S7", "A peer has one set of keys: nobody knows it by a key that it never had.", every_s=LOOK_S)
def keys_are_their_owners(mesh: Mesh) -> Iterator[Breach]:
    keys = {sight.peer: sight.static_keys for sight in mesh.sights.values()}
    for sight in mesh.sights.values():
        for contact in sight.book:
            if contact.peer in keys and contact.static not in keys[contact.peer]:
                yield Breach((sight.name, mesh.name_of(contact.peer)), "a key that is not its own")


@always(
    "S7",
    "Nobody forgets who was let in: every identity is in the book of all who have met it.",
    every_s=LOOK_S,
)
def books_hold_members_alone(mesh: Mesh) -> Iterator[Breach]:
    if len(mesh.sights) < len(mesh.cluster.nodes):
        return
    for sight in mesh.sights.values():
        strangers = [contact.peer for contact in sight.book if contact.peer not in mesh.peers]
        if strangers:
            yield Breach((sight.name,), f"{len(strangers)} in its book are nobody", within_s=5 * LOOK_S)


@settled("L4", f"A revocation reaches all of the core within {REVOKED_S:.0f} s.", every_s=5.0)
def revocations_spread(mesh: Mesh) -> Iterator[Breach]:
    newest: dict[PeerId, int] = {}
    for sight in mesh.core:
        for told in sight.revocations:
            newest[told.issuer] = max(told.number, newest.get(told.issuer, 0))
    for sight in mesh.core:
        for issuer, number in newest.items():
            told_here = sight.revocations.of(issuer)
            if told_here is None or told_here.number < number:
                yield Breach((sight.name,), f"it lacks list {number} of {issuer[-8:]}", issuer, REVOKED_S)
